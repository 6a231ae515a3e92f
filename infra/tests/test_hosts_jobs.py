"""Jobs on two hosts (network namespaces with an sshd each): preflight, training, and a host that dies in the middle.

Needs root on Linux, OpenSSH, and Horovod in the environment of the tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from infra.tests.hosts import Host, Hosts
from mrcnn_data.synthetic import generate_shapes

PATH = f"{os.environ['PATH']}:/usr/sbin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(shutil.which("sshd", path=PATH) is None, reason="needs Debian's openssh-server"),
    pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="no Horovod: make horovod"),
]

# The demo, smaller still.
TINY = """
    +experiment=demo data.synthetic=null data.short_edge=64 data.max_size=64 data.buckets=[[64,64]]
    model.backbone_width=4 model.gn_groups=4 model.fpn_channels=16 model.rpn_channels=16 model.rpn_samples=32
    model.train_pre_nms_top_k=64 model.train_post_nms_top_k=64 model.train_proposals=32
    model.detect_pre_nms_top_k=64 model.detect_post_nms_top_k=64 model.detect_proposals=16 model.roi_samples=16
    model.box_head_channels=16 model.mask_head_convs=1 model.mask_head_channels=8 model.detections_per_image=10
    train.images_per_gpu=1 train.global_batch=2 train.deterministic=true log.every=1 data.cache_dir=null
    precision=float32
""".split()  # noqa: SIM905
HOSTS = "launch.hosts=[one:1,two:1]"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate_shapes(root, train=12, val=3, size=64, seed=0)
    return root


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with Hosts(tmp_path / "hosts") as two:
        yield two


def command(data: Path, *options: str, module: str = "mrcnn_train") -> list[str]:
    return [sys.executable, "-m", module, *TINY, f"data.root={data}", *options]


def run(host: Host, arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    done = host.run(arguments, check=False, cwd=folder, env=environment())
    return done.returncode, done.stdout


def environment() -> dict[str, str]:
    return {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "OMP_NUM_THREADS": "1"}


def error_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("mrcnn_train: error:")]


def steps_of(run_dir: Path) -> list[int]:
    return [row["step"] for row in train_rows(run_dir)]


def train_rows(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "train"]


def test_preflight_passes_where_all_is_well(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    code, output = run(hosts["one"], command(data, HOSTS, module="mrcnn_train.preflight"), tmp_path)
    assert code == 0, output
    assert "processes:        2 on 2 hosts" in output
    assert "GB/s per process" in output
    assert "preflight passed" in output


def test_preflight_with_own_names_that_lead_to_the_loopback(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    """Debian's installer writes `127.0.1.1 NAME` into /etc/hosts."""
    for host in hosts:
        table = host.folder / "hosts"
        table.write_text(f"127.0.1.1 {host.name}\n" + table.read_text())
    code, output = run(hosts["one"], command(data, HOSTS, module="mrcnn_train.preflight"), tmp_path)
    assert code == 0, output


def test_preflight_names_a_wrong_host_key(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    known = hosts["one"].folder / "ssh" / "known_hosts"
    other = (hosts["one"].folder / "host_key.pub").read_text()
    address = hosts["two"].address
    known.write_text(f"two,{address} {other}")
    code, output = run(hosts["one"], command(data, HOSTS, module="mrcnn_train.preflight"), tmp_path)
    assert code == 2
    assert len(error_lines(output)) == 1
    assert "host two: ssh failed: " in output
    assert "ost key verification failed" in output


def test_preflight_names_another_package_version(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    import mrcnn_train

    place = Path(next(iter(mrcnn_train.__path__))) / "job" / "facts.py"
    other = tmp_path / "facts.py"
    changed = place.read_text().replace("own = {name:", 'versions["mrcnn-train"] = "0.0.9"\n    own = {name:')
    assert changed != place.read_text()
    other.write_text(changed)
    hosts["two"].show_instead(place, other)
    code, output = run(hosts["one"], command(data, HOSTS, module="mrcnn_train.preflight"), tmp_path)
    assert code == 2
    (line,) = error_lines(output)
    assert "host two: mrcnn-train is 0.0.9, on one it is " in line


def test_preflight_names_another_data_set(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path / "other", train=12, val=3, size=64, seed=1)
    changed = "annotations/instances_train.json"
    hosts["two"].show_instead(data / changed, tmp_path / "other" / changed)
    code, output = run(hosts["one"], command(data, HOSTS, module="mrcnn_train.preflight"), tmp_path)
    assert code == 2
    (line,) = error_lines(output)
    assert "host two: " in line
    assert "instances_train.json is " in line


def test_preflight_names_closed_ports(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    hosts["two"].close_port("1024:65535")
    began = time.monotonic()
    code, output = run(hosts["one"], command(data, HOSTS, module="mrcnn_train.preflight"), tmp_path)
    assert code == 2
    lines = error_lines(output)  # one for each direction that is closed
    assert lines[0].endswith("host one: no connection to two: are the ports between the hosts open?")
    assert all("no connection to" in line for line in lines)
    assert len(lines) <= 2
    assert time.monotonic() - began < 60


def test_a_host_that_is_down_is_one_line(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    hosts["two"].power_off()
    code, output = run(hosts["one"], command(data, HOSTS, "run.dir=" + str(tmp_path / "run")), tmp_path)
    assert code == 2
    (line,) = error_lines(output)
    assert "host two: ssh failed: " in line
    assert not (tmp_path / "run").exists()


def test_two_hosts_train_into_one_run_directory(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    """The folder of the launch has a space, and a secret of the environment is on no command line."""
    folder = tmp_path / "my launches"
    folder.mkdir()
    secret = {"AWS_SECRET_ACCESS_KEY": "do-not-show", "MINE": "also-secret", **environment()}
    job = hosts["one"].start(
        command(data, HOSTS, "launch.environment=[MINE]", "train.max_steps=3", f"run.dir={tmp_path / 'run'}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=secret,
    )
    seen = ""
    while job.poll() is None and "do-not-show" not in seen:
        seen += "".join(path.read_bytes().decode(errors="replace") for path in command_lines())
        time.sleep(0.2)
    output = job.communicate()[0]
    assert job.returncode == 0, output
    assert "-m\0mrcnn_train\0" in seen
    assert "do-not-show" not in seen
    assert "also-secret" not in seen
    assert steps_of(tmp_path / "run") == [1, 2, 3]
    (launch,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [(host["host"], host["ranks"]) for host in launch["hosts"]] == [("one", [0]), ("two", [1])]
    assert "do-not-show" not in (tmp_path / "run" / "environment.json").read_text()


def command_lines() -> Iterator[Path]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            path.read_bytes()
        except OSError:
            continue
        yield path


def test_pre_emption_drill(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    """One host dies in the middle; the same command resumes, and ends with the weights of an uninterrupted run."""
    steps = ("train.max_steps=10", "checkpoint.every_steps=2", "resume=auto")
    unbroken = command(data, HOSTS, *steps, f"run.dir={tmp_path / 'unbroken'}")
    code, output = run(hosts["one"], unbroken, tmp_path)
    assert code == 0, output
    broken = command(data, HOSTS, *steps, f"run.dir={tmp_path / 'broken'}")
    job = hosts["one"].start(broken, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path, env=environment())
    while not list((tmp_path / "broken" / "checkpoints").glob("step-*/trainer.json")):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)
    hosts["two"].power_off()
    began = time.monotonic()
    output = job.communicate()[0]
    assert job.returncode == 3, output
    assert time.monotonic() - began < 150
    done = steps_of(tmp_path / "broken")[-1]
    hosts["two"].power_on()
    code, output = run(hosts["one"], broken, tmp_path)
    assert code == 0, output
    assert "resumed from:" in output
    assert done < 10
    assert steps_of(tmp_path / "broken") == list(range(1, 11))
    last = "checkpoints/step-00000010/model.safetensors"
    ours, theirs = load_file(tmp_path / "broken" / last), load_file(tmp_path / "unbroken" / last)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)
    code, output = run(hosts["one"], broken, tmp_path)
    assert code == 0, output
    assert "has finished after 10 steps" in output


MPI = "mpirun --allow-run-as-root -H one:1,two:1 --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0".split()  # noqa: SIM905


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Debian's openmpi-bin")
def test_two_hosts_train_over_open_mpi(hosts: Hosts, data: Path, tmp_path: Path) -> None:
    """The ranks that mpirun starts give the losses of those that the trainer starts by itself over Gloo."""
    import horovod.tensorflow

    if not horovod.tensorflow.mpi_built():
        pytest.skip("Horovod was built without MPI: install libopenmpi-dev and openmpi-bin, then make horovod")
    passed = [
        word for name in ("PATH", "PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL", "OMP_NUM_THREADS") for word in ("-x", name)
    ]
    code, output = run(hosts["one"], [*MPI, *passed, *command(data, module="mrcnn_train.preflight")], tmp_path)
    assert code == 0, output
    assert "processes:        2 on 2 hosts" in output
    options = ("train.max_steps=3", f"run.dir={tmp_path / 'mpi'}")
    code, output = run(hosts["one"], [*MPI, *passed, *command(data, *options)], tmp_path)
    assert code == 0, output
    (launch,) = json.loads((tmp_path / "mpi" / "environment.json").read_text())
    assert [(host["host"], host["ranks"]) for host in launch["hosts"]] == [("one", [0]), ("two", [1])]
    code, output = run(
        hosts["one"], command(data, HOSTS, "train.max_steps=3", f"run.dir={tmp_path / 'gloo'}"), tmp_path
    )
    assert code == 0, output
    losses = [[row["total"] for row in train_rows(tmp_path / name)] for name in ("mpi", "gloo")]
    assert len(losses[0]) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
