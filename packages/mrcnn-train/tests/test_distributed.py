"""What a single process exchanges, and how a step is shared. Jobs of two are in test_ranks.py."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from mrcnn_train import ConfigError
from mrcnn_train.config.checks import check
from mrcnn_train.config.values import asked_processes
from mrcnn_train.errors import PeerLostError
from mrcnn_train.job.distributed import EXCHANGE, Processes, RankStart, connect, is_of_exchange
from mrcnn_train.job.launch import run_here
from mrcnn_train.job.place import Place
from mrcnn_train.job.watchdog import stack_traces
from mrcnn_train.training.datasets import make_loader, open_train


def test_a_single_process_gets_back_what_it_gives() -> None:
    processes = connect(Place())
    assert (processes.rank, processes.size) == (0, 1)
    value = object()
    assert processes.mean(value, name="x", wire="float16") is value
    assert processes.broadcast(value) is value
    assert processes.gather(value) == [value]
    assert processes.together(lambda: value) is value


def test_a_single_process_fails_with_its_own_error() -> None:
    def fail() -> None:
        raise ConfigError("mine")

    with pytest.raises(ConfigError, match="mine"):
        Processes().together(fail)


class PretendedPair(Processes):
    """Rank `rank` of two; the other rank sends `other` in every gather."""

    def __init__(self, rank: int, other: object) -> None:
        super().__init__(Place(rank, 2))
        self._other = other

    def gather(self, value):
        other = ("ConfigError: theirs", None) if self._other else (None, None)
        return [value, other] if self.rank == 0 else [other, value]


@pytest.mark.parametrize(("rank", "other_failed", "raised"), [(0, True, ConfigError), (1, True, PeerLostError)])
def test_the_first_process_that_failed_tells_its_error(rank: int, other_failed: bool, raised: type) -> None:
    def fail() -> None:
        raise ConfigError("mine")

    with pytest.raises(raised):
        PretendedPair(rank, other_failed).together(fail)


def test_a_process_that_did_not_fail_ends_without_a_message() -> None:
    with pytest.raises(PeerLostError) as caught:
        PretendedPair(0, True).together(lambda: 1)
    assert str(caught.value) == ""


@pytest.mark.parametrize(
    ("error", "is_peer"),
    [
        (RuntimeError("Horovod has been shut down. This was caused by an exception on one of the ranks"), True),
        (tf.errors.UnknownError(None, None, "{{function_node f}} HorovodAllreduce failed"), True),
        (tf.errors.UnknownError(None, None, f"Detected at node '{EXCHANGE}.gradient0'"), True),
        (tf.errors.UnknownError(None, None, "[/src/gloo/transport/tcp/pair.cc:598] Connection closed by peer"), True),
        (RuntimeError("out of memory"), False),
        (ConfigError("horovod is not installed"), False),
        (FileNotFoundError(2, "No such file", "/horovod-runs/7/curves.png"), False),
        (RuntimeError("/horovod-runs/7 cannot be read"), False),
        (tf.errors.NotFoundError(None, None, "/horovod-runs/7/tensorboard; No such file or directory"), False),
        (tf.errors.ResourceExhaustedError(None, None, "/horovod-runs/7: No space left on device"), False),
    ],
)
def test_whose_error_it_is(error: Exception, is_peer: bool) -> None:
    """The word in a path does not mean that another process ended."""
    assert is_of_exchange(error) == is_peer


def test_a_single_process_has_no_peers() -> None:
    with pytest.raises(RuntimeError, match="horovod-runs"), Processes().peer_errors():
        raise RuntimeError("HorovodAllreduce: /horovod-runs/7")


def test_a_step_that_processes_cannot_share(tiny) -> None:
    config = tiny("train.global_batch=12")  # six batches of two
    check(config, processes=3)
    with pytest.raises(ConfigError, match=r"4 processes.*one of 1, 2, 3, 6, or train\.images_per_gpu one of 1, 3"):
        check(config, processes=4)
    with pytest.raises(ConfigError, match=r"5 processes.*one of 1, 2, 3, 6$"):
        check(config, processes=5)


def test_ranks_together_load_what_one_process_loads(tiny) -> None:
    config = tiny("train.global_batch=8")
    dataset = open_train(config.data)

    def image_ids(rank: int, num_ranks: int) -> list[list[object]]:
        with make_loader(config.data, config.train, dataset, rank=rank, num_ranks=num_ranks) as loader:
            return [batch.image_ids for batch in next(loader.steps(start_step=3))]

    alone, first, second = image_ids(0, 1), image_ids(0, 2), image_ids(1, 2)
    assert (len(alone), len(first), len(second)) == (4, 2, 2)
    assert sorted(alone, key=str) == sorted(first + second, key=str)


@pytest.mark.parametrize(
    ("overrides", "count"),
    [([], 1), (["launch.processes=3"], 3), (["launch.hosts=['a:8','10.0.0.2:4']"], 12)],
)
def test_asked_processes(tiny, overrides: list[str], count: int) -> None:
    assert asked_processes(tiny(*overrides).launch) == count


@pytest.mark.parametrize("hosts", ["[]", "['a']", "['a:0']", "['a:x']", "[':2']"])
def test_hosts_without_a_count(tiny, hosts: str) -> None:
    with pytest.raises(ConfigError, match=r"launch\.hosts"):
        asked_processes(tiny(f"launch.hosts={hosts}").launch)


@pytest.fixture
def no_rendezvous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that exchange nothing start without Horovod."""

    @contextlib.contextmanager
    def numbers(counts: list[int], addresses: list[str]) -> Iterator[tuple[int, list[RankStart]]]:
        yield 1, [RankStart(0, {"RANK": str(rank)}) for rank in range(sum(counts))]

    monkeypatch.setattr("mrcnn_train.job.launch.rendezvous", numbers)


@pytest.mark.parametrize(
    ("body", "exit_code", "words"),
    [
        ("pass", 0, ""),
        ("sys.exit(143 if rank else 0)", 143, ""),
        ("os.kill(os.getpid(), 9) if rank else None", 137, "process 1 of 2 was ended by SIGKILL"),
    ],
)
def test_exit_code_of_a_job(no_rendezvous, capfd, body: str, exit_code: int, words: str) -> None:
    code = f"import os, sys; rank = int(os.environ['RANK']); {body}"
    assert run_here(["-c", code], count=2) == exit_code
    assert words in capfd.readouterr().err


def test_who_hangs_when_another_failed_is_killed(no_rendezvous, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr("mrcnn_train.job.launch.GRACE", 0.5)
    code = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '0' else time.sleep(600)"
    assert run_here(["-c", code], count=2) == 3
    assert "process 1 did not end" in capfd.readouterr().err


def test_sigterm_reaches_all_processes(no_rendezvous, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys, time; mark = os.environ['RANK'] + '-ended'\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(mark).touch(), sys.exit(143)))\n"
        "from mrcnn_train.job.link import follow_launcher; follow_launcher()\n"
        "pathlib.Path(os.environ['RANK']).touch()\n"
        "time.sleep(600)"
    )
    monkeypatch.chdir(tmp_path)
    sleep, sent = time.sleep, []

    def sleep_and_terminate(seconds: float) -> None:
        sleep(seconds)
        if {path.name for path in tmp_path.iterdir()} == {"0", "1"} and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    monkeypatch.setattr("mrcnn_train.job.launch.time.sleep", sleep_and_terminate)
    assert run_here(["-c", code], count=2) == 143
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "0-ended", "1-ended"}


def test_stack_traces_are_one_text() -> None:
    """They name the function in which a process hangs."""
    assert "in test_stack_traces_are_one_text\n" in stack_traces()
