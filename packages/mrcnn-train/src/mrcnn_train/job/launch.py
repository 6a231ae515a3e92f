"""Start the processes of a job: directly on this machine, by horovodrun on several."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from mrcnn_train.config.options import LaunchOptions
from mrcnn_train.config.values import asked_processes
from mrcnn_train.errors import EXIT_PEER_LOST, ConfigError
from mrcnn_train.job.distributed import INSTALL_HINT, rendezvous

GRACE = 60.0  # seconds in which the other processes must end after one has failed
POLL = 0.1  # seconds


def launch(options: LaunchOptions, arguments: Sequence[str]) -> int:
    """Run `python -m mrcnn_train` with these arguments in as many processes as `options` asks for.

    Returns:
        0, or the exit code of the process that failed first: 128 + signal if a signal ended it. With `hosts` it is that
        of horovodrun, which is 1 for any failure, or 128 + 15 if SIGTERM came to this process.

    Raises:
        ConfigError: Horovod is not installed.
    """
    command = [sys.executable, "-m", "mrcnn_train", *arguments]
    if options.hosts is None:
        return run_here(command, count=asked_processes(options))
    horovodrun = Path(sys.executable).with_name("horovodrun")
    if not horovodrun.exists() and shutil.which("horovodrun") is None:
        raise ConfigError(f"launch.hosts needs horovodrun: {INSTALL_HINT}")
    program = str(horovodrun) if horovodrun.exists() else "horovodrun"
    hosts = ["-np", str(asked_processes(options)), "-H", ",".join(options.hosts)]
    # --gloo, because horovodrun prefers mpirun where Horovod has MPI, and SIGTERM would then end horovodrun alone while
    # the job goes on. Gloo only connects the processes; on GPUs NCCL still adds up the gradients.
    process = subprocess.Popen([program, "--gloo", *hosts, *command])
    # The signal goes to the ranks, which agree to end after the same step; horovodrun would kill them within seconds.
    # It gets the signal only if no rank is on this machine.
    with _passing_on_sigterm(lambda: _ranks_below(process.pid) or [process.pid]) as received:
        code = process.wait()
    return 128 + received[0] if code and received else _as_in_shells(code)


def run_here(command: Sequence[str], *, count: int) -> int:
    """Run `count` copies of a command on this machine as the processes of one job; see `launch`.

    Processes that have not ended GRACE seconds after one failed are killed.
    """
    with rendezvous(count) as environments:
        processes = [subprocess.Popen(command, env=os.environ | environment) for environment in environments]
        with _passing_on_sigterm(lambda: [process.pid for process in processes if process.poll() is None]):
            deadline = math.inf
            while any(process.poll() is None for process in processes):
                if deadline == math.inf and any(process.returncode for process in processes):
                    deadline = time.monotonic() + GRACE
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL)
        code = _exit_code(processes)
        for rank, process in enumerate(processes):
            if process.poll() is None:
                print(f"mrcnn_train: error: process {rank} did not end in {GRACE:g} s: killed", file=sys.stderr)
                process.kill()
                process.wait()
        return code


def run_job(arguments: Sequence[str]) -> int:
    """Run `python -m mrcnn_train` with these arguments in a new process; return its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "mrcnn_train", *arguments])
    with _passing_on_sigterm(lambda: [process.pid]):
        code = process.wait()
    return _as_in_shells(code)


def _exit_code(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Return the code of the process that failed first, and print the name of a signal that ended one."""
    for rank, process in enumerate(processes):
        if process.returncode is not None and process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            print(f"mrcnn_train: error: process {rank} of {len(processes)} was ended by {name}", file=sys.stderr)
            return _as_in_shells(process.returncode)
    failures = [process.returncode for process in processes if process.returncode]
    return min(failures, key=lambda code: code == EXIT_PEER_LOST, default=0)


def _as_in_shells(code: int) -> int:
    """Return 128 + signal for a process that a signal ended, for which Python has the negative signal."""
    return code if code >= 0 else 128 - code


def _ranks_below(pid: int) -> list[int]:
    """Return the process ids of the ranks below a process of this machine."""
    import psutil  # comes with Horovod

    ranks = []
    with contextlib.suppress(psutil.Error):  # a process has ended meanwhile
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "HOROVOD_RANK" in process.environ():
                    ranks.append(process.pid)
    return ranks


@contextlib.contextmanager
def _passing_on_sigterm(receivers: Callable[[], Sequence[int]]) -> Iterator[list[int]]:
    """Send SIGTERM on to these processes; yields the signals that came. The terminal sends Ctrl-C to all by itself."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for pid in receivers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on)}
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
