"""infra.ec2.job on two hosts: checked, started in the background, stopped, started again. Root, minutes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from infra.tests.hosts import Hosts
from infra.tests.test_hosts_jobs import TINY, data, environment, hosts, pytestmark, steps_of

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["data", "hosts", "pytestmark"]  # pytest looks for fixtures here


def ec2(command: str, run_dir: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "infra.ec2.job", command, str(run_dir), *options]


def wait_for_end(run_dir: Path, *, step: int) -> None:
    deadline = time.monotonic() + 600
    while not (run_dir / "metrics.jsonl").exists() or max(steps_of(run_dir), default=0) < step:
        assert time.monotonic() < deadline, run_dir.with_name("run.log").read_text()
        time.sleep(0.2)


def test_start_stop_and_start_again(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    machines = tmp_path / "hosts.txt"
    machines.write_text("one 1\ntwo 1  # the second\n")
    run_dir = tmp_path / "run"
    env = {**environment(), "PYTHONPATH": f"{ROOT}:{environment().get('PYTHONPATH', '')}"}
    train = [*TINY, f"data.root={data}", "checkpoint.every_steps=5", "--hosts", str(machines)]
    one = hosts["one"]
    started = one.run(ec2("start", run_dir, *train, "train.max_steps=100000"), cwd=tmp_path, env=env)
    assert "preflight passed" in started.stdout
    assert "started as process" in started.stdout
    wait_for_end(run_dir, step=3)
    again = one.run(ec2("start", run_dir, *train), cwd=tmp_path, env=env, check=False)
    assert again.returncode == 2
    assert "is running as process" in again.stdout
    stopped = one.run(ec2("stop", run_dir), cwd=tmp_path, env=env)
    assert "stopped" in stopped.stdout
    last = max(steps_of(run_dir))
    more = [f"train.max_steps={last + 3}", "--no-preflight"]
    one.run(ec2("start", run_dir, *train, *more), cwd=tmp_path, env=env)
    one.run(ec2("follow", run_dir), cwd=tmp_path, env=env)  # until it ends
    assert steps_of(run_dir) == list(range(1, last + 4))
    assert "2 processes" in run_dir.with_name("run.log").read_text()
