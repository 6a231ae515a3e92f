"""Ctrl-C and SIGTERM at every stage of a run: one line at once, never a traceback, exit codes 130 and 143."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn_train import run
from mrcnn_train.training import datasets

SECOND_OF_HASHING = 1_500_000  # iterations of PBKDF2


def compute_deaf() -> None:
    """Compute for about a second outside of Python, which then calls no signal handler, as in a compilation."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", SECOND_OF_HASHING)


def start(*arguments: str, cwd: Path, stubs: Path | None = None) -> subprocess.Popen[str]:
    paths = [str(stubs)] if stubs is not None else []
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"it ended without printing {words!r}")


def finish(process: subprocess.Popen[str], exit_code: int) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == exit_code, output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize("module", ["mrcnn_train", "mrcnn_train.preflight"])
def test_interrupt_during_imports(tmp_path: Path, module: str) -> None:
    (tmp_path / "hydra.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = start("-m", module, "+experiment=demo", cwd=tmp_path, stubs=tmp_path)
    read_until(process, "importing")
    process.send_signal(signal.SIGINT)
    assert finish(process, 130) == "mrcnn_train: interrupted\n"


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_signal_while_shapes_are_drawn(tmp_path: Path, number: int, name: str, code: int) -> None:
    process = start("-m", "mrcnn_train", "+experiment=demo", "data.synthetic.train=100000", cwd=tmp_path)
    read_until(process, "Drawing")
    process.send_signal(number)
    began = time.monotonic()
    output = finish(process, code)
    assert time.monotonic() - began < 10
    assert output.startswith(f"mrcnn_train: {name}: stopping before the first step; ")
    assert output.endswith(f"Stopped by {name} before the first step.\n")
    assert not (tmp_path / "outputs" / "demo").exists()


def test_signal_while_data_are_checked(hollow_step, tiny, tmp_path: Path, monkeypatch, capfd) -> None:
    def check(*args: object, **options: object) -> dict:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the check went on")

    monkeypatch.setattr(datasets, "check_datasets", check)
    assert run(tiny()) == 143
    assert "Stopped by SIGTERM before the first step." in capfd.readouterr().out
    assert not (tmp_path / "run").exists()


def signal_in_step(monkeypatch: pytest.MonkeyPatch, hollow_step: type, step: int, action: Callable[[], None]) -> None:
    """Call `action` while the step of this number (from 1) runs."""
    update, calls = hollow_step.__call__, []

    def update_and_act(self, batches, learning_rate, votes, **options):
        calls.append(1)
        if len(calls) == step:
            action()
        return update(self, batches, learning_rate, votes, **options)

    monkeypatch.setattr(hollow_step, "__call__", update_and_act)


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGINT, "Ctrl-C: stopping after this step, with a checkpoint; press Ctrl-C again to stop now"),
        (signal.SIGTERM, "SIGTERM: stopping after this step, with a checkpoint; press Ctrl-C to stop now"),
    ],
)
def test_signal_is_acknowledged_while_a_step_computes(
    hollow_step, tiny, tmp_path: Path, monkeypatch, capfd, number: int, line: str
) -> None:
    acknowledged: list[str] = []

    def action() -> None:
        process = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -{number} {os.getpid()}"])
        compute_deaf()
        acknowledged.append(capfd.readouterr().err)
        process.wait()

    signal_in_step(monkeypatch, hollow_step, 1, action)
    assert run(tiny("data.val=null")) == 128 + number
    assert f"mrcnn_train: {line}\n" in acknowledged[0]
    out = capfd.readouterr().out
    name = line.partition(":")[0]
    assert f"Stopped by {name}; resume={tmp_path / 'run'} continues from step-00000001\n" in out


def test_second_interrupt_shows_how_to_resume(hollow_step, tiny, tmp_path: Path, monkeypatch, capfd) -> None:
    def action() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # a shell starts what it runs in the background with SIG_IGN
    signal_in_step(monkeypatch, hollow_step, 3, action)
    with pytest.raises(KeyboardInterrupt):
        run(tiny("data.val=null", "checkpoint.every_steps=1"))
    err = capfd.readouterr().err
    assert f"mrcnn_train: interrupted; resume={tmp_path / 'run'} continues from step-00000002\n" in err
    assert signal.getsignal(signal.SIGINT) is before


DEAF = textwrap.dedent("""
    import hashlib
    from mrcnn_train.job.signals import StopSignals, exit_on_interrupt
    exit_on_interrupt()
    with StopSignals() as stop:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
""")


def test_second_interrupt_ends_a_command_at_once(tmp_path: Path) -> None:
    """Also while TensorFlow compiles, when Python calls no signal handlers."""
    process = start("-c", DEAF, cwd=tmp_path)
    read_until(process, "ready")
    process.send_signal(signal.SIGINT)
    read_until(process, "Ctrl-C: stopping before the first step; press Ctrl-C again to stop now")
    process.send_signal(signal.SIGINT)
    assert finish(process, 130) == "mrcnn_train: interrupted; there is no checkpoint\n"


@pytest.mark.slow
def test_interrupts_while_the_first_step_compiles(tiny_overrides: list[str], tmp_path: Path) -> None:
    process = start("-m", "mrcnn_train", *tiny_overrides, "run.dir=run", cwd=tmp_path)
    read_until(process, "the first step compiles")
    process.send_signal(signal.SIGINT)
    read_until(process, "Ctrl-C: stopping after this step")
    output = finish(process, 130)
    assert re.search(r"step 1/6 .*\nsaved step 1: .*\n.*Stopped by Ctrl-C; resume=.*/run continues", output, re.S)
    process = start("-m", "mrcnn_train", "resume=run", cwd=tmp_path)
    read_until(process, "the first step compiles")
    process.send_signal(signal.SIGINT)
    read_until(process, "Ctrl-C: stopping after this step")
    process.send_signal(signal.SIGINT)
    assert finish(process, 130).endswith("run continues from step-00000001\n")
