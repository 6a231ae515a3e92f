"""The job on EC2 instances, with stand-ins for the trainer and for EC2."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from infra.ec2.job import JobError, find_hosts, has_efa, job_options, main, read_hosts, running, start, stop
from infra.tests.fake_job import install


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**install(tmp_path / "fake"), "FAKE_LOG": str(tmp_path / "log")}


def wait_for(path: Path, word: str) -> list[str]:
    for _ in range(300):
        lines = path.read_text().splitlines() if path.exists() else []
        if word in lines:
            return lines
        time.sleep(0.1)
    raise AssertionError(f"no {word} in {path}")


def test_start_stop_and_go_on(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "hosts.txt").write_text("10.0.0.1:8  # this one\n\n10.0.0.2:8\n")
    overrides = ["+experiment=demo", f"run.dir={tmp_path / 'run'}"]
    options = f"{' '.join(overrides)} resume=auto launch.hosts=[10.0.0.1:8,10.0.0.2:8]"
    assert start(tmp_path, overrides, environment) == 0
    assert wait_for(tmp_path / "log", "ready") == [f"preflight {options}", f"train {options}", "ready"]
    assert running(tmp_path) is not None
    with pytest.raises(JobError, match="a job runs already"):
        start(tmp_path, overrides, environment)
    stop(tmp_path)
    assert running(tmp_path) is None
    assert (tmp_path / "log").read_text().splitlines()[-1] == "stopped"
    with pytest.raises(JobError, match="no job runs"):
        stop(tmp_path)
    assert start(tmp_path, overrides, environment | {"FAKE_CODE": "0"}) == 0


def test_a_failed_preflight_starts_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    assert start(tmp_path, ["+experiment=demo", "run.dir=run"], environment | {"FAKE_PREFLIGHT": "2"}) == 2
    assert (tmp_path / "log").read_text() == "preflight +experiment=demo run.dir=run resume=auto\n"
    assert not (tmp_path / "job.pid").exists()


@pytest.mark.parametrize(
    ("overrides", "hosts", "message"),
    [
        (["+experiment=demo"], [], "give run.dir=DIR"),
        (["run.dir=r", "resume=auto"], [], "leave resume out"),
        (["run.dir=r", "launch.processes=8"], ["a:8"], r"leave launch\.processes out"),
    ],
)
def test_options_that_cannot_be(overrides: list[str], hosts: list[str], message: str) -> None:
    with pytest.raises(JobError, match=message):
        job_options(overrides, hosts)


def test_one_machine_may_choose_its_processes() -> None:
    assert job_options(["run.dir=r", "launch.processes=8"], []) == ["run.dir=r", "launch.processes=8", "resume=auto"]


@pytest.mark.parametrize("line", ["10.0.0.1", "10.0.0.1:0", "a b:8", "-oProxyCommand=x:8", "a;b:1"])
def test_lines_that_are_no_hosts(tmp_path: Path, line: str) -> None:
    (tmp_path / "hosts.txt").write_text(line)
    with pytest.raises(JobError, match="is not ADDRESS:PROCESSES"):
        read_hosts(tmp_path)


def test_efa_is_seen_by_its_device(tmp_path: Path) -> None:
    assert not has_efa(tmp_path / "none")
    (tmp_path / "mlx5_0").mkdir()
    assert not has_efa(tmp_path)
    (tmp_path / "rdmap16s27").mkdir()
    assert has_efa(tmp_path)


class Ec2:
    """EC2's answers for these (address, type), in pages of one."""

    def __init__(self, *instances: tuple[str, str]) -> None:
        self.instances = instances

    def get_paginator(self, name: str) -> Ec2:
        assert name == "describe_instances"
        return self

    def paginate(self, Filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
        assert {"Name": "tag:mrcnn-job", "Values": ["mine"]} in Filters
        return [
            {"Reservations": [{"Instances": [{"PrivateIpAddress": address, "InstanceType": kind}]}]}
            for address, kind in self.instances
        ]

    def describe_instance_types(self, InstanceTypes: list[str]) -> dict[str, Any]:
        gpus = {"p4d.24xlarge": 8, "g5.xlarge": 1}
        return {
            "InstanceTypes": [
                {"InstanceType": kind, **({"GpuInfo": {"Gpus": [{"Count": gpus[kind]}]}} if kind in gpus else {})}
                for kind in InstanceTypes
            ]
        }


def test_hosts_of_a_job() -> None:
    assert find_hosts(Ec2(("10.0.0.9", "p4d.24xlarge"), ("10.0.0.3", "g5.xlarge")), "mine") == [
        "10.0.0.3:1",
        "10.0.0.9:8",
    ]
    with pytest.raises(JobError, match="no running instance has the tag mrcnn-job=mine"):
        find_hosts(Ec2(), "mine")
    with pytest.raises(JobError, match=r"instances of type m5\.large have no GPU"):
        find_hosts(Ec2(("10.0.0.9", "m5.large")), "mine")


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["stop"]) == 2
    assert capsys.readouterr().err == f"infra.ec2.job: no job runs in {tmp_path}\n"


def test_help() -> None:
    done = subprocess.run([sys.executable, "-m", "infra.ec2.job", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "A training job on EC2 instances" in done.stdout
