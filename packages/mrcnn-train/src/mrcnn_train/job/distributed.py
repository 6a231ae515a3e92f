"""What the processes of one job tell each other. Horovod is imported here only.

`connect(place)` gives the object that the rest of the trainer uses, that of a single process or Horovod's.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from mrcnn_train.errors import ConfigError, PeerLostError
from mrcnn_train.job import slurm
from mrcnn_train.job.devices import check_gpus_differ, limit_to_local_cpus, use_own_gpu
from mrcnn_train.job.place import Place, check_alone
from mrcnn_train.job.watchdog import Watchdog

Value = TypeVar("Value")

HOROVOD_DEFAULTS = {
    # Gradients travel in portions of 64 MB at most, looked for every half millisecond: Horovod's advice for overlap.
    "HOROVOD_FUSION_THRESHOLD": str(64 * 2**20),
    "HOROVOD_CYCLE_TIME": "0.5",
    # A frozen process, or a machine that is gone without a word; also how much later one may start than another.
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
}
INSTALL_HINT = "`make horovod` builds and installs it (infra/horovod)"


class Processes:
    """A job of a single process: every exchange gives back what it was given."""

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
            name: of the exchange, the same on all processes whatever shape their batch has.
            wire: "float16" to halve what is sent; None sends the tensor's own type.
        """
        return tensor

    def mean_in_order(self, tensor: Any) -> Any:
        """Average, where no name is at hand: the n-th call while a function is traced is the n-th on all processes."""
        return tensor

    def broadcast_variables(self, variables: Sequence[Any]) -> None:
        """Overwrite TensorFlow variables by those of rank 0."""

    def broadcast(self, value: Value) -> Value:
        """Return rank 0's value, anything that can be pickled."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes by rank, on all of them."""
        return [value]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.gather(None)

    @contextlib.contextmanager
    def watched(self, patience: float) -> Iterator[None]:
        """Within, a process of several ends itself where it gets nowhere for so many seconds; see `progress`."""
        yield

    def progress(self) -> None:
        """Note that this process gets on; every exchange does."""

    def together(self, work: Callable[[], Value]) -> Value:
        """Do what may fail on one process only, and fail on all of them if it does.

        Raises:
            Whatever `work` raised, on the first process that failed; PeerLostError, without a message, on the others.
        """
        failure: Exception | None = None
        try:
            value = work()
        except Exception as error:
            failure = error
        failed = [rank for rank, has_failed in enumerate(self.gather(failure is not None)) if has_failed]
        if not failed:
            return value
        if failure is not None and failed[0] == self.rank:
            raise failure
        raise PeerLostError


class HorovodProcesses(Processes):
    """The processes that `horovodrun` or `mpirun` started.

    Every exchange raises PeerLostError where another process ended, or froze, before it.
    """

    def __init__(self, place: Place, gpu: str | None = None) -> None:
        for variable, value in HOROVOD_DEFAULTS.items():
            os.environ.setdefault(variable, value)
        try:
            import horovod.tensorflow as horovod
        except ImportError as error:
            raise ConfigError(f"{place.size} processes need Horovod: {INSTALL_HINT}; {error}") from error
        self._horovod = horovod
        self._exchanges: weakref.WeakKeyDictionary[Any, collections.Counter[str]] = weakref.WeakKeyDictionary()
        point = slurm.meeting_point(os.environ, has_mpi=horovod.mpi_built())
        self._meeting = None if point is None else _meet(point, place)
        with peer_errors():
            horovod.init()
        found = Place(horovod.rank(), horovod.size(), horovod.local_rank(), horovod.local_size())
        if (found.rank, found.size) != (place.rank, place.size):
            raise ConfigError(
                f"the launcher says process {place.rank} of {place.size}, Horovod {found.rank} of {found.size}: was "
                "Horovod built with the MPI that started this job?"
            )
        super().__init__(found)
        self._watchdog: Watchdog | None = None
        check_gpus_differ(self.gather(gpu))

    def mean(self, tensor: Any, *, name: str, wire: str | None = None) -> Any:
        import tensorflow as tf

        if wire is not None:  # divided first: a sum over many processes may leave the range of half precision
            halved = tf.cast(tensor / self.size, wire)
            return tf.cast(self._sum(halved, name), tensor.dtype)
        return self._sum(tensor, name) / self.size

    def mean_in_order(self, tensor: Any) -> Any:
        import tensorflow as tf

        # Counted per traced function: ranks may trace their shapes of batch in different orders.
        counts = self._exchanges.setdefault(tf.compat.v1.get_default_graph(), collections.Counter())
        counts["mean"] += 1
        return self.mean(tensor, name=f"mean{counts['mean']}")

    def _sum(self, tensor: Any, name: str) -> Any:
        with peer_errors():
            return self._horovod.allreduce(tensor, op=self._horovod.Sum, name=name, ignore_name_scope=True)

    @contextlib.contextmanager
    def watched(self, patience: float) -> Iterator[None]:
        self._watchdog = Watchdog(patience, rank=self.rank)
        try:
            yield
        finally:
            self._watchdog.stop()

    def broadcast_variables(self, variables: Sequence[Any]) -> None:
        with peer_errors():
            self._horovod.broadcast_variables(list(variables), root_rank=0)

    def broadcast(self, value: Value) -> Value:
        with peer_errors():  # named, or it would be after the value's type, which may differ between ranks
            shared: Value = self._horovod.broadcast_object(value, root_rank=0, name="broadcast")
        self.progress()
        return shared

    def gather(self, value: Value) -> list[Value]:
        with peer_errors():
            values = list(self._horovod.allgather_object(value, name="gather"))
        self.progress()
        return values

    def progress(self) -> None:
        if self._watchdog is not None:
            self._watchdog.progress()


def connect(place: Place) -> Processes:
    """Join the other processes of the job, if there are any, on cores and a GPU of one's own.

    Raises:
        ConfigError: Horovod is not installed, or is not the one that started this process; more processes than GPUs.
    """
    if place.size == 1:
        check_alone()
        return Processes()
    limit_to_local_cpus(place)
    return HorovodProcesses(place, gpu=use_own_gpu(place))


def _meet(point: slurm.MeetingPoint, place: Place) -> Any:
    """Let Horovod find the other tasks of srun; returns the server of rank 0, which has to live as long as the job."""
    import psutil  # comes with Horovod
    from horovod.runner.common.util.hosts import SlotInfo
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    cards = {name: [card.address for card in cards] for name, cards in psutil.net_if_addrs().items()}
    interface, own_address = slurm.interface_towards(slurm.resolve(point.neighbour), cards)
    # The first node's own name may be that of its loopback.
    address = own_address if point.node == 0 else slurm.resolve(point.host)
    interface = os.environ.get("HOROVOD_GLOO_IFACE", interface)
    os.environ.update(slurm.variables(point, place, address=address, interface=interface))
    server = None
    if place.rank == 0:
        try:
            server = RendezvousHTTPServer(("", point.port), RendezvousHandler, 0)
        except OSError as error:
            raise ConfigError(f"port {point.port} of {point.host} cannot be served: {error.strerror}") from error
        slots = [
            SlotInfo(
                slurm.host_key(node), 0, local_rank, 0, place.size, count, sum(n > local_rank for n in point.tasks)
            )
            for node, count in enumerate(point.tasks)
            for local_rank in range(count)
        ]
        server.init(slots)
        threading.Thread(target=server.serve_forever, name="mrcnn-meeting-point", daemon=True).start()
    slurm.wait_for_server(point, address)
    return server


@contextlib.contextmanager
def rendezvous(size: int) -> Iterator[list[dict[str, str]]]:
    """Serve the meeting point of `size` processes of this machine; gives the environment of each.

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


@contextlib.contextmanager
def peer_errors() -> Iterator[None]:
    """Turn what Horovod throws when another process is gone into PeerLostError."""
    try:
        yield
    except Exception as error:  # HorovodInternalError, or one of TensorFlow's from inside of a compiled function
        if is_of_horovod(error):
            raise PeerLostError("another process of the job ended or froze; the first error is its own") from error
        raise


def is_of_horovod(error: BaseException) -> bool:
    """Whether an exception was thrown by an exchange between processes."""
    home = type(error).__module__.partition(".")[0]
    text = f"{type(error).__name__}: {error}".lower()
    return home == "horovod" or (home in ("tensorflow", "builtins") and "horovod" in text)
