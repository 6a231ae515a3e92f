"""Jobs of two processes on this machine, over Gloo: same results as one, and they end together. Takes minutes."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mrcnn_train.job.launch import run_here
from mrcnn_train.record.metrics_log import read_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None, reason="Horovod is not installed: `make horovod` builds it"
    ),
]
ONE_OF_TWO = str(Path(__file__).with_name("one_of_two.py"))


@pytest.fixture
def two(tiny_overrides: list[str]) -> list[str]:
    """A tiny run of two micro-batches a step, whose rate does not depend on its length.

    Residual branches start at zero, as the recipes have them. Two processes sum in another order than one, and with
    random branches under the norms of such a small network a gradient may jump by 2e-4 of its norm where weights change
    by 1e-7, in a single process too: 5 of 6 such changes did so in one of the first steps. Of 42 with branches at zero
    none did, and the weights of two processes stayed within 5e-7 of those of one over seven steps.
    """
    return [
        *tiny_overrides,
        "model.zero_residual_scale=true",
        "train.global_batch=4",
        "optimizer.drop_fractions=[]",
        "optimizer.warmup_steps=0",
    ]


def start(*arguments: str, cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mrcnn_train", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, *, exit_code: int) -> str:
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == exit_code, output
    return output


def train(*arguments: str, cwd: Path, exit_code: int = 0) -> str:
    return finish(start(*arguments, cwd=cwd), exit_code=exit_code)


def ranks_of(process: subprocess.Popen) -> list[int]:
    """Process ids of a job's ranks, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for pid in children:
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"HOROVOD_RANK="):
                ranks[int(entry.partition(b"=")[2])] = int(pid)
    return [ranks[rank] for rank in sorted(ranks)]


def wait_for_step(process: subprocess.Popen, run_dir: Path, step: int) -> None:
    for _ in range(18000):
        assert process.poll() is None, process.communicate()[0]
        if any(row["step"] >= step for row in read_rows(run_dir / "metrics.jsonl")):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no step {step} in {run_dir}")


def furthest(one: Path, other: Path) -> float:
    """The largest difference between two checkpoints, optimizer included."""
    files = ("model.safetensors", "trainer.safetensors")
    pairs = [(load_file(one / file), load_file(other / file)) for file in files]
    assert all(ours.keys() == theirs.keys() for ours, theirs in pairs)
    return max(float(np.abs(ours[key] - theirs[key]).max()) for ours, theirs in pairs for key in ours)


@pytest.mark.parametrize(
    ("norm", "precision"),
    [("gn", "float32"), ("sync_bn", "float32"), ("gn", "mixed_bfloat16"), ("gn", "mixed_float16")],
)
def test_two_processes_equal_one(two: list[str], norm: str, precision: str, capfd) -> None:
    exit_code = run_here([ONE_OF_TWO, "compare", *two, f"model.norm={norm}", f"precision={precision}"], count=2)
    assert exit_code == 0, capfd.readouterr()


def test_float16_on_the_wire(two: list[str], capfd) -> None:
    assert run_here([ONE_OF_TWO, "wire", *two], count=2) == 0, capfd.readouterr()


def test_resume_with_another_number_of_processes(two: list[str], tmp_path: Path) -> None:
    """Resumed with 2 -> 1 -> 2 processes, a run equals one with 2; with 2 -> 2, bit for bit."""
    pair = "launch.processes=2"
    output = train(*two, pair, "train.max_steps=6", "run.dir=straight", cwd=tmp_path)
    assert "4 images a step = 2 processes x 1 x 2" in output
    assert output.count("step 6/6") == 1  # only rank 0 speaks
    train(*two, pair, "train.max_steps=2", "run.dir=mixed", cwd=tmp_path)
    shutil.copytree(tmp_path / "mixed", tmp_path / "same")
    train("resume=mixed", "launch.processes=null", "train.max_steps=4", cwd=tmp_path)
    train("resume=mixed", pair, "train.max_steps=6", cwd=tmp_path)
    train("resume=same", "train.max_steps=6", cwd=tmp_path)
    last = Path("checkpoints", "step-00000006")
    assert furthest(tmp_path / "straight" / last, tmp_path / "mixed" / last) < 1e-5
    assert furthest(tmp_path / "straight" / last, tmp_path / "same" / last) == 0.0
    scores = [
        [row["box_AP"] for row in read_rows(tmp_path / name / "metrics.jsonl") if row["kind"] == "evaluation"][-1]
        for name in ("straight", "same")
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_of_one_process_ends_all_with_a_checkpoint(two: list[str], tmp_path: Path, rank: int) -> None:
    process = start(*two, "launch.processes=2", "train.max_steps=100000", "run.dir=run", cwd=tmp_path)
    wait_for_step(process, tmp_path / "run", 3)
    os.kill(ranks_of(process)[rank], signal.SIGTERM)
    output = finish(process, exit_code=143)
    assert output.count("Stopped by SIGTERM") == 1
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    step = int(checkpoint.name.partition("-")[2])
    output = train("resume=run", f"train.max_steps={step + 1}", "data.val=null", cwd=tmp_path)
    assert f"step {step + 1}/{step + 1}" in output


def test_killed_process_ends_the_other(two: list[str], tmp_path: Path) -> None:
    process = start(*two, "launch.processes=2", "train.max_steps=100000", "run.dir=run", cwd=tmp_path)
    wait_for_step(process, tmp_path / "run", 3)
    killed = time.monotonic()
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    output = finish(process, exit_code=137)
    assert time.monotonic() - killed < 60
    assert "process 1 of 2 was ended by SIGKILL" in output
    assert "process 0: another process of the job ended or froze" in output
    assert "Traceback" not in output


def test_unreadable_image_in_the_loader_of_one_process(two: list[str], shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "data")
    arguments = ["data.root=data", "launch.processes=2", "train.max_steps=100000", "run.dir=run"]
    process = start(*two, *arguments, cwd=tmp_path)
    wait_for_step(process, tmp_path / "run", 1)  # the check before training has found nothing
    (tmp_path / "data" / "train" / "000005.png").write_bytes(b"no image")
    output = finish(process, exit_code=2)
    assert "000005.png" in output
    assert "another process of the job ended" in output
    assert "Traceback" not in output


def test_infinite_gradient_in_one_process(two: list[str], tmp_path: Path, capfd) -> None:
    command = [ONE_OF_TWO, "gradients", *two, f"run.dir={tmp_path / 'run'}"]
    assert run_here(command, count=2) == 1
    error = capfd.readouterr().err
    assert error.count("diverged at step 1: gradient_norm is inf") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_infinite_gradient_in_one_process_is_skipped_with_a_loss_scale(two: list[str], tmp_path: Path) -> None:
    command = [ONE_OF_TWO, "gradients", *two, f"run.dir={tmp_path / 'run'}"]
    options = ["precision=mixed_float16", "train.max_steps=3", "data.val=null"]
    assert run_here([*command, *options], count=2) == 0
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert [(row["skipped_steps"], row["loss_scale"]) for row in rows] == [(1, 2**15), (2, 2**14), (3, 2**13)]


def test_machines_that_differ_end_the_job_with_one_line(two: list[str], tmp_path: Path, capfd) -> None:
    command = [ONE_OF_TWO, "machine", *two, f"run.dir={tmp_path / 'run'}", "precision=auto"]
    assert run_here(command, count=2) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "precision=auto" in line]
    assert "process 0: precision=auto: the machines of this job differ: rank 0: " in line
    assert "rank 1: mixed_float16 (a GPU of this test): give one precision=NAME for all" in line
    assert not (tmp_path / "run").exists()


def test_processes_on_one_machine_choose_alike(two: list[str], tmp_path: Path) -> None:
    options = ["precision=auto", "launch.processes=2", "train.max_steps=2", "data.val=null", "run.dir=run"]
    output = train(*two, *options, cwd=tmp_path)
    (line,) = [line for line in output.splitlines() if line.startswith("precision:")]
    precision = line.split()[1]
    assert "(auto: " in line
    assert f"\nprecision: {precision}\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_evaluator_that_raises(two: list[str], tmp_path: Path, capfd) -> None:
    command = [ONE_OF_TWO, "scores", *two, f"run.dir={tmp_path / 'run'}", "eval.every_epochs=1"]
    assert run_here([*command, "eval.background=true"], count=2) == 1
    error = capfd.readouterr().err
    assert "no scores today" in error
    assert "process 1: another process of the job ended" in error
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))  # saved before


def hang(fault: str, options: list[str], run_dir: Path) -> int:
    """Run a job of which process 1 hangs in its third step."""
    command = [ONE_OF_TWO, fault, *options, f"run.dir={run_dir}", "train.max_steps=100000"]
    exit_code = run_here(command, count=2)
    assert [row["step"] for row in read_rows(run_dir / "metrics.jsonl")][-1] == 2
    return exit_code


def test_a_frozen_process_ends_the_job(two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """It looks like a lost machine, which is detected after two minutes by default."""
    monkeypatch.setattr("mrcnn_train.job.launch.GRACE", 5.0)
    monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "10")
    assert hang("frozen", two, tmp_path / "run") == 3
    error = capfd.readouterr().err
    assert "process 0: another process of the job ended or froze" in error
    assert "process 1 did not end in 5 s: killed" in error


def test_a_process_that_does_not_come_ends_the_job(two: list[str], tmp_path: Path, capfd) -> None:
    """The process still tells Horovod that it is alive, so Horovod would wait forever."""
    # Four minutes, because on a busy machine the first step may take nearly as long to compile.
    assert hang("late", [*two, "distributed.timeout_minutes=4"], tmp_path / "run") == 3
    error = capfd.readouterr().err
    assert "process 1: no step and no exchange in 4 minutes" in error
    assert "in oversleep" in error  # where it hangs


@pytest.mark.parametrize("is_in_background", [True, False])
def test_target_that_rank_0_sees_ends_both(two: list[str], tmp_path: Path, capfd, is_in_background: bool) -> None:
    command = [ONE_OF_TWO, "target", *two, f"run.dir={tmp_path / 'run'}", "train.max_steps=100000"]
    options = ["eval.every_epochs=1", f"eval.background={is_in_background}", "stop_at.box_ap=0.5"]
    assert run_here([*command, *options], count=2) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("target reached: box AP 0.5")]
    last = max(row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl"))
    assert line.endswith(f"stopped after {last} steps")
    assert (tmp_path / "run" / "checkpoints" / f"step-{last:08d}").exists()
    assert last > 3 if is_in_background else last == 3


def test_a_wrong_option_is_told_once(two: list[str], tmp_path: Path) -> None:
    """Its path is also in the plan, which rank 0 prints."""
    output = train(*two, "model.weights=gone.npz", "launch.processes=2", cwd=tmp_path, exit_code=2)
    assert output.count("gone.npz does not exist") == 1


def test_hosts_are_started_by_horovodrun(two: list[str], tmp_path: Path) -> None:
    """SIGTERM to the launching command reaches the processes, and they save."""
    hosts = "launch.hosts=['localhost:2']"
    process = start(*two, hosts, "train.max_steps=100000", "run.dir=run", cwd=tmp_path)
    wait_for_step(process, tmp_path / "run", 3)
    process.terminate()
    output = finish(process, exit_code=143)
    assert "4 images a step = 2 processes x 1 x 2" in output
    assert output.count("Stopped by SIGTERM") == 1
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    step = int(checkpoint.name.partition("-")[2])
    train("resume=run", hosts, f"train.max_steps={step + 1}", "data.val=null", cwd=tmp_path)
    assert (tmp_path / "run" / "checkpoints" / f"step-{step + 1:08d}").exists()


def test_second_interrupt_ends_all_processes(two: list[str], tmp_path: Path) -> None:
    options = ("launch.processes=2", "train.max_steps=100000", "checkpoint.every_steps=1", "run.dir=run")
    process = start(*two, *options, cwd=tmp_path)
    wait_for_step(process, tmp_path / "run", 3)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    output = finish(process, exit_code=130)
    assert output.count("mrcnn_train: Ctrl-C: stopping after this step, with a checkpoint") == 1
    assert output.count("continues from step-") == 1
    assert "Traceback" not in output


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun here")
def test_under_mpirun(two: list[str]) -> None:
    bind = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2"]
    done = subprocess.run([*bind, sys.executable, ONE_OF_TWO, "compare", *two], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
