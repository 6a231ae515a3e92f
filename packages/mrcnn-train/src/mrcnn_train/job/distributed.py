"""Exchanges between the processes of a job. Only this module imports Horovod.

`connect(place)` returns the object that the rest of the trainer uses: `Processes` for one, `HorovodProcesses` for many.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from mrcnn_eval import OtherRankError, shares_of_all
from mrcnn_train.errors import ConfigError, PeerLostError
from mrcnn_train.job.devices import limit_to_local_cpus, use_own_gpu
from mrcnn_train.job.place import Place
from mrcnn_train.job.watchdog import Watchdog

Value = TypeVar("Value")

HOROVOD_DEFAULTS = {
    # Gradients are sent in portions of up to 64 MB, every half millisecond, as Horovod advises for overlap.
    "HOROVOD_FUSION_THRESHOLD": str(64 * 2**20),
    "HOROVOD_CYCLE_TIME": "0.5",
    # After so many seconds a frozen process or a lost machine is given up; processes may start this far apart.
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
}
INSTALL_HINT = "`make horovod` builds and installs it (infra/horovod)"
EXCHANGE = "MrcnnExchange"  # begins the names of our exchanges, so that an error of TensorFlow shows which op failed
# In errors of exchanges: the names of our ops and Horovod's, Horovod's own sentences, its transport's source files.
EXCHANGE_FAILED = re.compile(
    rf"{EXCHANGE}|Horovod(Allreduce|Allgather|Broadcast)|Horovod (has|could|background)|gloo/\w+(/\w+)*\.(cc|h)"
)


class Processes:
    """A job of a single process: every exchange returns what it was given."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def size(self) -> int:
        return self.place.size

    def mean(self, tensor: Any, *, name: str, wire: str | None = None) -> Any:
        """Average a floating tensor over the processes, inside a `tf.function` or outside.

        Args:
            name: of the exchange, the same on all processes whatever the shape of their batch.
            wire: "float16" sends half the bytes; None sends the tensor's own type.
        """
        return tensor

    def mean_in_order(self, tensor: Any) -> Any:
        """Average without a name: the n-th call while a function is traced is the n-th on all processes."""
        return tensor

    def broadcast_variables(self, variables: Sequence[Any]) -> None:
        """Overwrite TensorFlow variables by those of rank 0."""

    def broadcast(self, value: Value) -> Value:
        """Return rank 0's value, which can be pickled."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank."""
        return [value]

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        self.gather(None)

    @contextlib.contextmanager
    def watched(self, patience: float) -> Iterator[None]:
        """Inside, a process of several ends itself if it makes no `progress` for `patience` seconds."""
        yield

    def progress(self) -> None:
        """Note that this process works; every exchange does so by itself."""

    @contextlib.contextmanager
    def peer_errors(self) -> Iterator[None]:
        """Turn the error of an exchange whose other process is gone into PeerLostError; one process has no others."""
        yield

    def together(self, work: Callable[[], Value]) -> Value:
        """Do work that may fail on one process only, and end all processes if it does.

        Raises:
            Whatever `work` raised, on the first process that failed; PeerLostError, without a message, on the others.
        """
        values: list[Value] = []  # which need not be fit to be sent
        try:
            shares_of_all(lambda: values.append(work()), gather=self.gather)
        except OtherRankError:
            raise PeerLostError from None
        return values[0]


class HorovodProcesses(Processes):
    """The processes that `horovodrun` or `mpirun` started.

    Every exchange raises PeerLostError if another process has ended or frozen.
    """

    def __init__(self, place: Place) -> None:
        for variable, value in HOROVOD_DEFAULTS.items():
            os.environ.setdefault(variable, value)
        try:
            import horovod.tensorflow as horovod
        except ImportError as error:
            raise ConfigError(f"{place.size} processes need Horovod: {INSTALL_HINT}; {error}") from error
        self._horovod = horovod
        self._exchanges: weakref.WeakKeyDictionary[Any, collections.Counter[str]] = weakref.WeakKeyDictionary()
        with self.peer_errors():
            horovod.init()
        found = Place(horovod.rank(), horovod.size(), horovod.local_rank(), horovod.local_size())
        if (found.rank, found.size) != (place.rank, place.size):
            raise ConfigError(
                f"the launcher says process {place.rank} of {place.size}, Horovod {found.rank} of {found.size}: was "
                "Horovod built with the MPI that started this job?"
            )
        super().__init__(found)
        self._watchdog: Watchdog | None = None

    def mean(self, tensor: Any, *, name: str, wire: str | None = None) -> Any:
        import tensorflow as tf

        if wire is not None:  # divided first, because a sum over many processes may overflow float16
            halved = tf.cast(tensor / self.size, wire)
            return tf.cast(self._sum(halved, name), tensor.dtype)
        return self._sum(tensor, name) / self.size

    def mean_in_order(self, tensor: Any) -> Any:
        import tensorflow as tf

        # Counted per traced function, because ranks may trace their batch shapes in different orders.
        counts = self._exchanges.setdefault(tf.compat.v1.get_default_graph(), collections.Counter())
        counts["mean"] += 1
        return self.mean(tensor, name=f"mean{counts['mean']}")

    def _sum(self, tensor: Any, name: str) -> Any:
        name = f"{EXCHANGE}.{name}"
        with self.peer_errors():
            return self._horovod.allreduce(tensor, op=self._horovod.Sum, name=name, ignore_name_scope=True)

    @contextlib.contextmanager
    def peer_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_of_exchange(error):
                raise PeerLostError(
                    "another process of the job ended or froze; the cause is the first error that was printed"
                ) from error
            raise

    @contextlib.contextmanager
    def watched(self, patience: float) -> Iterator[None]:
        self._watchdog = Watchdog(patience, rank=self.rank)
        try:
            yield
        finally:
            self._watchdog.stop()

    def broadcast_variables(self, variables: Sequence[Any]) -> None:
        with self.peer_errors():
            self._horovod.broadcast_variables(list(variables), root_rank=0)

    def broadcast(self, value: Value) -> Value:
        with self.peer_errors():  # named, because the default name is the value's type, which may differ between ranks
            shared: Value = self._horovod.broadcast_object(value, root_rank=0, name=f"{EXCHANGE}.broadcast")
        self.progress()
        return shared

    def gather(self, value: Value) -> list[Value]:
        with self.peer_errors():
            values = list(self._horovod.allgather_object(value, name=f"{EXCHANGE}.gather"))
        self.progress()
        return values

    def progress(self) -> None:
        if self._watchdog is not None:
            self._watchdog.progress()


def connect(place: Place) -> Processes:
    """Join the other processes of the job, if there are any; each takes its share of the cores and its GPU.

    Raises:
        ConfigError: Horovod is not installed, or is not the one that started this process; more processes than GPUs.
    """
    if place.size == 1:
        return Processes()
    limit_to_local_cpus(place)
    use_own_gpu(place)
    return HorovodProcesses(place)


@contextlib.contextmanager
def rendezvous(size: int) -> Iterator[list[dict[str, str]]]:
    """Serve the meeting point of `size` processes of this machine; yields the environment of each.

    Raises:
        ConfigError: Horovod is not installed.
    """
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
        from horovod.runner.http.http_server import RendezvousServer
    except ImportError as error:
        raise ConfigError(f"{size} processes need Horovod: {INSTALL_HINT}; {error}") from error
    server = RendezvousServer()
    port = server.start()
    try:
        slots = get_host_assignments(parse_hosts(f"localhost:{size}"), size)
        server.init(slots)
        common = {key: str(value) for key, value in create_run_env_vars("127.0.0.1", ["lo"], port).items()}
        yield [{**common, **create_slot_env_vars(slot)} for slot in slots]
    finally:
        server.stop()


def is_of_exchange(error: BaseException) -> bool:
    """Return whether an exchange between processes raised an error, going by its type and the words of its text.

    Horovod raises its own types, and from compiled functions TensorFlow's, with the name of the op in the text. Errors
    of files are never counted, because a path may hold any word.
    """
    home = type(error).__module__.partition(".")[0]
    if home == "horovod":
        return True
    is_candidate = home == "tensorflow" or (home == "builtins" and isinstance(error, RuntimeError | ValueError))
    return is_candidate and EXCHANGE_FAILED.search(str(error)) is not None
