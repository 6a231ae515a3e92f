"""Stand-ins for mpirun and mrcnn_train that log how they were called, for tests of what starts and stops them.

The real ones run in the tests of jobs (tests/), and on two hosts.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, Popen

# Runs the program, once, in place of all ranks. Options with one value: those that the launchers use.
MPIRUN = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
print(json.dumps(arguments), file=open(os.environ["FAKE_LOG"] + ".mpirun", "a"))
words = list(arguments)
while words and words[0].startswith("-"):
    option = words.pop(0)
    del words[: {{"--mca": 2, "-mca": 2, "--allow-run-as-root": 0}}.get(option, 1)]
{hook}
os.execvp(words[0], words)
"""
# Trains until SIGTERM, or ends at once with the exit code FAKE_CODE; then there is a checkpoint.
TRAIN = """
import os, signal, socket, sys, time
from pathlib import Path
LOG = os.environ.get("FAKE_LOG", "FOLDER/log")
where = [os.environ.get(f"OMPI_COMM_WORLD_{name}", "") for name in ("RANK", "SIZE")]
print(*where, socket.gethostname(), file=open(LOG + ".ranks", "a"), flush=True)
run = next(Path(word[8:]) for word in sys.argv if word.startswith("run.dir="))
log = open(LOG, "a")
print("train", *sys.argv[1:], file=log, flush=True)
def stop(*_):
    save(); print("stopped", file=log, flush=True); os._exit(143)
def save():
    step = run / "checkpoints" / "step-00000003"
    step.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "model.json", "trainer.safetensors", "trainer.json"):
        (step / name).write_text(name)
    (run / "checkpoints" / "best").write_text("step-00000003\\n")
signal.signal(signal.SIGTERM, stop)
at_once = Path("FOLDER/code")  # where launchers pass few variables on
code = os.environ.get("FAKE_CODE", at_once.read_text() if at_once.exists() else None)
print("ready", file=log, flush=True)
if code is None:
    time.sleep(60)
save()
sys.exit(int(code or 0))
"""
PREFLIGHT = """
import os, sys
print("preflight", *sys.argv[1:], file=open(os.environ.get("FAKE_LOG", "FOLDER/log"), "a"), flush=True)
sys.exit(int(os.environ.get("FAKE_PREFLIGHT", 0)))
"""


FOREIGN = ("SM_", "FAKE_", "OMPI_", "NCCL_", "FI_", "LD_LIBRARY_PATH")


def install(folder: Path, *, hook: str = "") -> dict[str, str]:
    """Write the stand-ins; returns the environment in which they are found, and log to folder/log."""
    package, programs = folder / "lib" / "mrcnn_train", folder / "bin"
    package.mkdir(parents=True)
    programs.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TRAIN.replace("FOLDER", str(folder)))
    (package / "preflight.py").write_text(PREFLIGHT.replace("FOLDER", str(folder)))
    mpirun = programs / "mpirun"
    mpirun.write_text(MPIRUN.format(python=sys.executable, hook=hook))
    mpirun.chmod(mpirun.stat().st_mode | stat.S_IXUSR)
    (programs / "python").symlink_to(sys.executable)
    return {
        # LD_LIBRARY_PATH: importing OpenCV sets it.
        **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{folder / 'lib'}:{Path(__file__).parents[2]}",
        "FAKE_LOG": str(folder / "log"),
    }


@contextlib.contextmanager
def starting(command: Sequence[str | Path], variables: Mapping[str, str]) -> Iterator[Callable[..., Popen[str]]]:
    """Give a function that starts a command with variables, and more of them; processes that are left are killed."""
    processes: list[Popen[str]] = []

    def start(**environment: str) -> Popen[str]:
        processes.append(Popen(command, env={**variables, **environment}, stderr=PIPE, text=True))
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def log(folder: Path, word: str = "", count: int = 1, *, seconds: float = 60) -> list[str]:
    """Wait until `count` lines of the stand-ins' log begin with a word; return all lines."""
    path = folder / "log"
    deadline = time.monotonic() + seconds
    lines: list[str] = []
    while time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if sum(line.startswith(word) for line in lines) >= count:
            return lines
        time.sleep(0.05)
    raise AssertionError(f"not {count} x {word!r} in {lines}")
