"""Jobs on machines that ssh reaches; training and ssh are stand-ins here, see test_ec2_hosts.py."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from infra.ec2 import job
from infra.ec2.job import Equipment, JobError, Machine

PLAIN, GPUS, EFA = Equipment(0, 0, False), Equipment(8, 0, False), Equipment(8, 4, True)
# Notes its options and variables, and ends with 143 on SIGTERM.
STAND_IN = """
import json, os, pathlib, signal, sys, time
names = [name for name in os.environ if name.startswith(("NCCL_", "FI_"))]
pathlib.Path("seen.json").write_text(json.dumps([sys.argv[1:], {name: os.environ[name] for name in names}]))
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
print("training", flush=True)
time.sleep(60)
"""


def test_hosts() -> None:
    machines = job.read_hosts("# four\nubuntu@a 8\n\nb   # no number\n")
    assert machines == [Machine("ubuntu@a", 8), Machine("b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 8 9", r"hosts:1: \"a 8 9\" is not \[USER@\]HOST"),
        ("a\nb 0", "hosts:2"),
        ("a x", "hosts:1"),
        ("a\na 4", "hosts:2: a is there twice"),
        ("# none", "names no host"),
    ],
)
def test_hosts_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        job.read_hosts(text)


def test_processes_are_those_of_the_file_or_the_gpus() -> None:
    assert job.launch_options(None, [GPUS]) == ["launch.processes=8"]
    assert job.launch_options(None, [PLAIN]) == ["launch.processes=1"]
    machines = [Machine("ubuntu@a"), Machine("b", 2), Machine("c")]
    assert job.launch_options(machines, [GPUS, GPUS, PLAIN]) == ["launch.hosts=['ubuntu@a:8','b:2','c:1']"]


def test_network() -> None:
    assert job.network_variables([GPUS, GPUS], {}) == {"NCCL_SOCKET_IFNAME": "^lo,docker"}
    assert job.network_variables([GPUS, GPUS], {"NCCL_SOCKET_IFNAME": "eth1"}) == {}
    variables = job.network_variables([EFA, EFA], {"LD_LIBRARY_PATH": "/mine:/opt/amazon/efa/lib"})
    assert variables["FI_PROVIDER"] == "efa"
    assert variables["LD_LIBRARY_PATH"] == (
        "/opt/amazon/ofi-nccl/lib:/opt/amazon/efa/lib:/opt/amazon/openmpi/lib:/mine"
    )
    assert "FI_PROVIDER" not in job.network_variables([EFA], {})  # one machine has no network to cross
    with pytest.raises(JobError, match="1 of 2 machines have EFA"):
        job.network_variables([EFA, GPUS], {})
    with pytest.raises(JobError, match="libnccl-net"):
        job.network_variables([EFA, EFA._replace(has_plugin=False)], {})


def test_a_machine_that_cannot_be_reached() -> None:
    no_ssh = ("sh", "-c", "echo 'ssh: connect to host: Connection refused' >&2; exit 255")
    with pytest.raises(JobError, match="a cannot be reached by ssh: ssh: connect to host: Connection refused"):
        job.ask(Machine("a"), no_ssh)
    assert job.ask(Machine("a"), ("sh", "-c", "printf '8\\n4\\n1\\n'")) == EFA


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "mrcnn_train"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    (package / "preflight.py").write_text("import sys; sys.exit(4 if 'bad=1' in sys.argv else 0)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(job, "HOSTS", tmp_path / "hosts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_start_follow_stop(stand_in: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = stand_in / "runs" / "a b"
    assert job.main(["start", str(run_dir), "+experiment=demo", "--no-preflight", "train.max_steps=9"]) == 0
    wait_for(stand_in / "seen.json")
    options, variables = json.loads((stand_in / "seen.json").read_text())
    assert options[:2] == ["+experiment=demo", "train.max_steps=9"]
    assert options[2].startswith("launch.processes=")
    assert options[3:] == [f"run.dir={run_dir}", "resume=auto"]
    assert variables["NCCL_SOCKET_IFNAME"] == "^lo,docker"
    assert job.main(["start", str(run_dir), "+experiment=demo"]) == 2
    assert "is running as process" in capfd.readouterr().err
    assert job.main(["stop", str(run_dir)]) == 0
    assert job.running(run_dir) is None
    assert job.main(["follow", str(run_dir)]) == 0
    shown = capfd.readouterr().out
    assert "training\nsaved\n" in shown
    assert "is not running" in shown
    assert job.main(["stop", str(run_dir)]) == 0


def test_a_preflight_that_fails(stand_in: Path) -> None:
    assert job.main(["start", "run", "+experiment=demo", "bad=1"]) == 4
    assert not (stand_in / "run.pid").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start", "run", "resume=x"], "resume is set here"),
        (["start", "run", "+experiment=demo", "--hosts", "gone"], "gone cannot be read"),
        (["follow", "run"], "start the run first"),
        (["stop", "run", "x=1"], "stop takes no options"),
    ],
)
def test_wrong_requests(stand_in: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert job.main(arguments) == 2
    assert message in capfd.readouterr().err
