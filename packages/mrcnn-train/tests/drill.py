"""Faults that happen to real runs, staged on tiny runs: what becomes of the run, its last checkpoint and its weights.

    python drill.py [--only TEXT] [--table FILE]          `make drill`: seven minutes

Each fault is a function whose docstring names it. It returns what happened, or raises AssertionError where the product
did not hold. A table is printed at the end; the exit code is 1 if a fault was not survived.

`python drill.py --inside EVENT COMMAND ARGUMENT...` runs a command of the product with a fault inside: a signal at a
certain point, or a clock that jumps.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

STEPS = 40
LAST = f"step-{STEPS:08d}"
PATIENCE = 1800  # seconds for a command; loaded machines are slow


class Skipped(Exception):
    """What this machine lacks to stage a fault."""


class Stage(NamedTuple):
    """Where a fault is staged.

    Attributes:
        folder: for this fault alone.
        options: of a tiny run.
        straight: the weights and the optimizer at the end of an unbroken run, by file and name.
    """

    folder: Path
    options: list[str]
    straight: dict

    def train(self, *arguments: str, exit_code: int = 0, **how: str) -> str:
        return finish(self.start(*arguments, **how), exit_code=exit_code)

    def start(self, *arguments: str, inside: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start `python -m mrcnn_train`, perhaps with a fault inside."""
        command = [sys.executable, __file__, "--inside", inside, "train"] if inside else TRAIN
        return start([*command, *arguments], self.folder, environment)

    def ends_as_unbroken(self, run: str = "run") -> str:
        """Require that the run reached its last step with the weights of an unbroken one."""
        different = differences(self.straight, arrays_of(self.folder / run / "checkpoints" / LAST))
        assert not different, f"other values than in an unbroken run: {different[:3]}"
        return "resumed to the weights of an unbroken run, bit for bit"


STARTED: list[subprocess.Popen[str]] = []  # by the fault that is staged now
TRAIN = [sys.executable, "-m", "mrcnn_train"]
EVALUATE = [sys.executable, "-m", "mrcnn_eval"]


def start(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    STARTED.append(process)
    return process


def end_the_rest() -> None:
    """Kill what a fault has left: runs without end, and their ranks."""
    for process in STARTED:
        if process.poll() is None:
            for pid in (*ranks_of(process.pid), process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()
    STARTED.clear()


def finish(process: subprocess.Popen[str], *, exit_code: int) -> str:
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == exit_code, f"exit code {process.returncode}, not {exit_code}: {output[-2000:]}"
    assert "Traceback" not in output, output[-2000:]
    return output


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    from mrcnn_train.record.metrics_log import read_rows

    for _ in range(10 * PATIENCE):
        assert process.poll() is None, f"the run ended before step {step}: {process.communicate()[0][-2000:]}"
        if any(row["step"] >= step for row in read_rows(run / "metrics.jsonl")):
            return
        time.sleep(0.1)
    raise AssertionError(f"no step {step} in {PATIENCE} seconds")


def arrays_of(checkpoint: Path) -> dict:
    from safetensors.numpy import load_file

    files = ("model.safetensors", "trainer.safetensors")
    return {(file, name): array for file in files for name, array in load_file(checkpoint / file).items()}


def differences(ours: dict, theirs: dict) -> list:
    import numpy as np

    return [key for key in ours.keys() | theirs.keys() if not np.array_equal(ours.get(key), theirs.get(key))]


def checkpoints_of(run: Path) -> list[Path]:
    """Return the checkpoints; each must be complete and readable."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    for folder in folders:
        arrays_of(folder)
        json.loads((folder / "trainer.json").read_text())
    return folders


# ---- faults of one process ------------------------------------------------------------------------------------------


def sigterm_in_a_checkpoint(stage: Stage) -> str:
    """SIGTERM while a checkpoint is written"""
    stage.train(*stage.options, "run.dir=run", inside="sigterm-in-checkpoint", exit_code=143)
    assert checkpoints_of(stage.folder / "run")
    stage.train("resume=run")
    return f"exit code 143, the checkpoint is complete; {stage.ends_as_unbroken()}"


def sigkill_in_a_checkpoint(stage: Stage) -> str:
    """SIGKILL while a checkpoint is written"""
    stage.train(*stage.options, "run.dir=run", inside="sigkill-in-checkpoint", exit_code=-signal.SIGKILL)
    whole = checkpoints_of(stage.folder / "run")
    assert len(whole) == 1, whole
    assert list((stage.folder / "run/checkpoints").glob("partial-*"))
    stage.train("resume=run")
    assert not list((stage.folder / "run/checkpoints").glob("partial-*"))
    return f"the one before is complete; {stage.ends_as_unbroken()}"


def sigkill_of_an_evaluation(stage: Stage) -> str:
    """SIGKILL of mrcnn-eval while it writes its results"""
    stage.train(*stage.options, "run.dir=run")
    score = ["--checkpoint", "run", "--precision", "float32"]
    inside = [sys.executable, __file__, "--inside", "sigkill-in-results", "eval"]
    finish(start([*inside, *score], stage.folder), exit_code=-signal.SIGKILL)
    written = stage.folder / "run/evaluation"
    for file in written.glob("*.json"):
        json.loads(file.read_text())  # whole, or not there
    finish(start([*EVALUATE, *score], stage.folder), exit_code=0)
    numbers = json.loads((written / "metrics.json").read_text())
    assert numbers
    return "no half file is left; the same command then succeeds"


def clock_that_jumps(stage: Stage) -> str:
    """The system's clock jumps back by two hours, then forward by a day"""
    from mrcnn_train.record.metrics_log import read_rows

    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        raise Skipped("needs Debian's package faketime")
    offset = stage.folder / "offset"
    offset.write_text("+0")
    faked = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    output = stage.train(*stage.options, "run.dir=run", inside="clock", **faked)
    assert re.findall(r"the clock jumped by (.*) h", output) == ["-2", "26"], output[-2000:]
    rows = read_rows(stage.folder / "run/metrics.jsonl")
    minutes = [row["minutes"] for row in rows if row["kind"] == "train"]
    assert all(0 <= one <= other < 60 for one, other in itertools.pairwise(minutes)), minutes
    stage.ends_as_unbroken()
    return "minutes and weights are those of a steady clock"


def run_directory_that_disappears(stage: Stage) -> str:
    """The run directory is deleted in mid-run"""
    process = stage.start(*stage.options, "train.max_steps=100000", "run.dir=run")
    wait_for_step(process, stage.folder / "run", 12)
    shutil.rmtree(stage.folder / "run", ignore_errors=True)
    shutil.rmtree(stage.folder / "run", ignore_errors=True)  # what was written meanwhile
    output = finish(process, exit_code=1)
    assert output.count("mrcnn_train: error:") == 1, output
    return "one line, exit code 1"


def bad_image_in_mid_run(stage: Stage) -> str:
    """An image becomes unreadable in mid-run (data.on_error=raise)"""
    root = Path(next(option for option in stage.options if option.startswith("data.root=")).partition("=")[2])
    shutil.copytree(root, stage.folder / "data")
    image = stage.folder / "data/train/000005.png"
    content = image.read_bytes()
    process = stage.start(*stage.options, "data.root=data", "train.max_steps=100000", "run.dir=run")
    wait_for_step(process, stage.folder / "run", 3)
    image.write_bytes(b"no image")
    output = finish(process, exit_code=2)
    assert "000005.png" in output, output
    assert "resume=" in output, output
    (saved,) = checkpoints_of(stage.folder / "run")[-1:]
    image.write_bytes(content)
    steps = int(saved.name.partition("-")[2]) + 2
    stage.train("resume=run", f"train.max_steps={steps}")
    return "exit code 2 and a checkpoint; with the image mended, the run goes on"


def full_disk(stage: Stage) -> str:
    """The disk is full when a checkpoint is written"""
    disk = stage.folder / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        raise Skipped("needs root, to mount a small disk")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        raise Skipped("a tmpfs cannot be mounted here")
    try:
        process = stage.start(*stage.options, "train.max_steps=100000", "run.dir=disk/run")
        wait_for_step(process, disk / "run", 12)
        free = shutil.disk_usage(disk).free
        with contextlib.suppress(OSError):  # the run writes too
            (disk / "others").write_bytes(b"\0" * free)
        output = finish(process, exit_code=1)
        assert "No space left" in output, output
        done = int(checkpoints_of(disk / "run")[-1].name.partition("-")[2])
        (disk / "others").unlink()
        stage.train("resume=disk/run", f"train.max_steps={done + 2}")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=False)
    return "one line, exit code 1, the checkpoints before are complete; with space, the run goes on"


def two_runs_share_a_cache(stage: Stage) -> str:
    """Two runs start at once on one empty cache of annotations"""
    options = [*stage.options, "data.cache_dir=cache"]
    both = [stage.start(*options, f"run.dir={name}") for name in ("one", "other")]
    for process in both:
        finish(process, exit_code=0)
    for name in ("one", "other"):
        stage.ends_as_unbroken(name)
    return "both end with the weights of a run alone"


def second_writer(stage: Stage) -> str:
    """A second run writes into the directory of a run"""
    process = stage.start(*stage.options, "train.max_steps=100000", "run.dir=run")
    wait_for_step(process, stage.folder / "run", 3)
    output = stage.train("resume=run", exit_code=2)
    process.terminate()
    finish(process, exit_code=143)
    assert str(process.pid) in output, output
    return "refused, exit code 2, with the process of the first"


# ---- faults of two processes ----------------------------------------------------------------------------------------


def needs_horovod() -> None:
    if importlib.util.find_spec("horovod") is None:
        raise Skipped("Horovod is not installed: `make horovod`")


def two_processes(stage: Stage, **environment: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a run of two processes without end; return it after a few steps, with the ids of its ranks."""
    needs_horovod()
    options = ("train.global_batch=4", "train.max_steps=100000", "launch.processes=2", "run.dir=run")
    process = stage.start(*stage.options, *options, **environment)
    wait_for_step(process, stage.folder / "run", 12)
    return process, ranks_of(process.pid)


def ranks_of(launcher: int) -> list[int]:
    ranks = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        for variable in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"HOROVOD_RANK="):
                ranks[int(variable.partition(b"=")[2])] = int(child)
    return [ranks[rank] for rank in sorted(ranks)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def goes_on(stage: Stage, *options: str) -> str:
    done = int(checkpoints_of(stage.folder / "run")[-1].name.partition("-")[2])
    output = stage.train("resume=run", f"train.max_steps={done + 2}", *options)
    assert f"step {done + 2}/{done + 2}" in output, output
    return "the run goes on from its last checkpoint"


def sigkill_then_other_numbers_of_processes(stage: Stage) -> str:
    """SIGKILL, then resumed with another number of processes"""
    needs_horovod()
    process = stage.start(*stage.options, "train.global_batch=4", "train.max_steps=100000", "run.dir=run")
    wait_for_step(process, stage.folder / "run", 12)
    process.kill()
    finish(process, exit_code=-signal.SIGKILL)
    goes_on(stage, "launch.processes=2")
    goes_on(stage, "launch.processes=null")
    return "1, then 2, then 1 processes: the run goes on each time"


def killed_rank(stage: Stage) -> str:
    """SIGKILL of one rank of two"""
    process, ranks = two_processes(stage)
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    output = finish(process, exit_code=137)
    seconds = time.monotonic() - began
    assert "process 1 of 2 was ended by SIGKILL" in output, output
    return f"exit code 137 after {seconds:.0f} s, both have ended; {goes_on(stage)}"


def stopped_rank(stage: Stage) -> str:
    """SIGSTOP of one rank of two"""
    process, ranks = two_processes(stage, HOROVOD_GLOO_TIMEOUT_SECONDS="20")
    os.kill(ranks[1], signal.SIGSTOP)
    began = time.monotonic()
    output = process.communicate(timeout=PATIENCE)[0]
    seconds = time.monotonic() - began
    assert process.returncode == 3, f"exit code {process.returncode}: {output[-2000:]}"
    assert not any(map(is_running, ranks)), "a rank is left"
    return f"exit code 3 after {seconds:.0f} s (20 s allowed to Gloo), no process is left; {goes_on(stage)}"


def killed_launcher(stage: Stage) -> str:
    """SIGKILL of the launching command of two ranks"""
    process, ranks = two_processes(stage)
    began = time.monotonic()
    process.kill()
    while any(map(is_running, ranks)):
        assert time.monotonic() - began < 120, "a rank goes on without its launcher"
        time.sleep(0.1)
    seconds = time.monotonic() - began
    process.communicate()
    return f"both ranks have ended after {seconds:.1f} s with a checkpoint; {goes_on(stage)}"


FAULTS: tuple[Callable[[Stage], str], ...] = (
    sigterm_in_a_checkpoint,
    sigkill_in_a_checkpoint,
    sigkill_of_an_evaluation,
    clock_that_jumps,
    run_directory_that_disappears,
    bad_image_in_mid_run,
    full_disk,
    two_runs_share_a_cache,
    second_writer,
    sigkill_then_other_numbers_of_processes,
    killed_rank,
    stopped_rank,
    killed_launcher,
)


# ---- faults inside a command ----------------------------------------------------------------------------------------


def run_inside(event: str, command: str, arguments: list[str]) -> int:
    """Run the trainer or the evaluator in this process, with a fault."""
    if event == "clock":
        _let_the_clock_jump()
    elif event == "sigkill-in-results":
        _signal_before_rename(signal.SIGKILL)
    else:
        _signal_in_checkpoint(signal.SIGTERM if event == "sigterm-in-checkpoint" else signal.SIGKILL)
    sys.argv = [command, *arguments]
    if command == "eval":
        from mrcnn_eval.cli import main as evaluate

        return evaluate()
    from mrcnn_train.app import main as train

    return train()


def _signal_in_checkpoint(number: int) -> None:
    """Send this process a signal when half of its second checkpoint is written."""
    from mrcnn_train.training import checkpoint

    save, calls = checkpoint.save_file, []

    def save_file(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        save(*arguments)

    checkpoint.save_file = save_file


def _signal_before_rename(number: int) -> None:
    """Send this process a signal when its list of detections is written, but has not its name yet."""
    from mrcnn_data import outputs

    append = outputs._append_to_ledger

    def append_to_ledger(path: Path, content: bytes) -> None:
        append(path, content)
        if path.name == "detections.json":
            os.kill(os.getpid(), number)

    outputs._append_to_ledger = append_to_ledger


def _let_the_clock_jump() -> None:
    """Change the offset of the clock when the first and the third checkpoint are written; libfaketime reads it."""
    from mrcnn_train.training import checkpoint

    save, offsets = checkpoint.save_file, iter(["-2h", None, "+1d"])

    def save_file(*arguments: object) -> None:
        offset, before = next(offsets, None), time.time()
        if offset is not None:
            Path(os.environ["FAKETIME_TIMESTAMP_FILE"]).write_text(offset)
            print(f"the clock jumped by {round((time.time() - before) / 3600)} h", flush=True)
        save(*arguments)

    checkpoint.save_file = save_file


# ---- the table ------------------------------------------------------------------------------------------------------


def make_stage(scratch: Path) -> Stage:
    """Draw the data, and train the unbroken run."""
    from conftest import TINY

    from mrcnn_data.synthetic import generate_shapes

    generate_shapes(scratch / "shapes", train=12, val=3, size=64, seed=0)
    options = [
        *TINY,
        f"data.root={scratch / 'shapes'}",
        "data.cache_dir=null",
        f"train.max_steps={STEPS}",
        "checkpoint.every_steps=10",
        "checkpoint.every_epochs=null",
        "checkpoint.keep_last=10",
    ]
    stage = Stage(scratch / "straight", options, {})
    stage.folder.mkdir()
    stage.train(*options, "run.dir=run")
    return stage._replace(straight=arrays_of(stage.folder / "run/checkpoints" / LAST))


def stage_fault(fault: Callable[[Stage], str], stage: Stage) -> tuple[str, str]:
    """Return what happened and whether the product held: "yes", "no" or "not tried"."""
    stage.folder.mkdir()
    try:
        return fault(stage), "yes"
    except Skipped as reason:
        return str(reason), "not tried"
    except Exception as error:  # whatever it is, the table has it, and the next fault is staged
        return " ".join(f"{type(error).__name__}: {error}".split())[-1500:], "no"
    finally:
        end_the_rest()


def main() -> int:
    parser = argparse.ArgumentParser(description="Stage faults on tiny runs, and print what became of them.")
    parser.add_argument("--only", default="", metavar="TEXT", help="only faults whose function has this in its name")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table, as Markdown")
    options = parser.parse_args()
    lines = ["| fault | what happened | survived |", "|---|---|---|"]
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        stage = make_stage(Path(scratch))
        for fault in FAULTS:
            if options.only not in fault.__name__:
                continue
            began = time.monotonic()
            happened, outcome = stage_fault(fault, stage._replace(folder=Path(scratch) / fault.__name__))
            outcomes.append(outcome)
            lines.append(f"| {fault.__doc__} | {happened} | {outcome} |")
            print(f"{outcome:9} {time.monotonic() - began:4.0f} s  {fault.__doc__}: {happened}", flush=True)
    print("\n" + "\n".join(lines))
    if options.table is not None:
        options.table.write_text("\n".join(lines) + "\n")
    return 1 if "no" in outcomes or not outcomes else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(run_inside(sys.argv[2], sys.argv[3], sys.argv[4:]))
    sys.exit(main())
