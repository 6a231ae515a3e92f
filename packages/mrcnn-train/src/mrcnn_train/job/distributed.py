"""Exchanges between the processes of a job. Only this module imports Horovod.

`connect(place)` returns the object that the rest of the trainer uses: `Processes` for one, `HorovodProcesses` for many.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mrcnn_eval import OtherRankError, shares_of_all
from mrcnn_train.errors import ConfigError, PeerLostError
from mrcnn_train.job import slurm
from mrcnn_train.job.cores import gpu_node, take_cores
from mrcnn_train.job.devices import check_gpus_differ, settle_options, use_own_device
from mrcnn_train.job.facts import read_gpus
from mrcnn_train.job.hosts import interface_of, own_address_toward
from mrcnn_train.job.place import Place, check_alone
from mrcnn_train.job.watchdog import Watchdog

if TYPE_CHECKING:
    from mrcnn_model import Device

Value = TypeVar("Value")

HOROVOD_DEFAULTS = {
    # Gradients are sent in portions of up to 64 MB, every half millisecond, as Horovod advises for overlap.
    "HOROVOD_FUSION_THRESHOLD": str(64 * 2**20),
    "HOROVOD_CYCLE_TIME": "0.5",
    # Seconds after which a frozen process or a lost machine counts as failed; processes may start this far apart.
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
}
INSTALL_HINT = "`make horovod` builds and installs it (infra/horovod)"
EXCHANGE = "MrcnnExchange"  # begins the names of our exchanges: TensorFlow's errors contain them
# What the texts of failed exchanges contain: names of our ops or Horovod's, Horovod's messages, source files of Gloo.
EXCHANGE_FAILED = re.compile(
    rf"{EXCHANGE}|Horovod(Allreduce|Allgather|Broadcast)|Horovod (has|could|background)|gloo/\w+(/\w+)*\.(cc|h)"
)


class RankStart(NamedTuple):
    """What a launcher needs to start one rank."""

    host: int  # index of its host
    variables: dict[str, str]  # from which the process reads its place


class Processes:
    """A job of a single process: every exchange returns what it was given."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self.device: Device | None = None  # of this process, once it is chosen

    def devices(self, wanted: str, *, tf32: bool = True) -> list[Device]:
        """Return the devices of all processes. A single process takes its device now, several did when they connected.

        Args:
            wanted, tf32: the options `device` and `tf32`.

        Raises:
            ConfigError: see `use_own_device` and `settle_options`.
        """
        if self.device is None:
            self.device = use_own_device(self.place, wanted)
        self.device = settle_options(self.device, wanted, tf32=tf32)
        return self.gather(self.device)

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
            wire: "float16" sends half the bytes, but rounds what is sent and every partial sum to float16, where values
                below 6e-8 become 0. None sends and adds the tensor's own type, float32 for gradients.
        """
        return tensor

    def mean_in_order(self, tensor: Any) -> Any:
        """Average without a name: the n-th call while a function is traced is the n-th on all processes."""
        return tensor

    def broadcast_variables(self, variables: Sequence[Any]) -> None:
        """Overwrite TensorFlow variables with the values of rank 0."""

    def broadcast(self, value: Value) -> Value:
        """Return the value of rank 0, which must be picklable."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank."""
        return [value]

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        self.gather(None)

    @contextlib.contextmanager
    def watched(self, patience: float) -> Iterator[None]:
        """End one of several processes if it makes no `progress` for `patience` seconds inside this context."""
        yield

    def progress(self) -> None:
        """Note that this process makes progress; every exchange calls this."""

    @contextlib.contextmanager
    def peer_errors(self) -> Iterator[None]:
        """Turn an error of an exchange with a process that has ended into PeerLostError."""
        yield

    def together(self, work: Callable[[], Value]) -> Value:
        """Do work that may fail on one process only, and end all processes if it does.

        Raises:
            Whatever `work` raised, on the first process that failed; PeerLostError, without a message, on the others.
        """
        values: list[Value] = []  # stay on this process, so they need not be picklable
        try:
            shares_of_all(lambda: values.append(work()), gather=self.gather)
        except OtherRankError:
            raise PeerLostError from None
        return values[0]


class HorovodProcesses(Processes):
    """A job of several processes, connected by Horovod.

    Every exchange raises PeerLostError if another process has ended or frozen.
    """

    def __init__(self, place: Place, device: Device) -> None:
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
        _choose_interface()
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
        self.device = device
        check_gpus_differ(self.gather(device))

    def mean(self, tensor: Any, *, name: str, wire: str | None = None) -> Any:
        import tensorflow as tf

        if wire is not None:  # divide first, because a sum over many processes may overflow float16
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


def connect(place: Place, *, bind_cores: bool = True, device: str = "auto") -> Processes:
    """Join the other processes of the job, if there are any. Each takes one GPU and its share of the cores.

    Args:
        bind_cores: take a share of the cores, near the GPU; False leaves that to the launcher and the system.
        device: the option of that name. A single process takes its device later: see `Processes.devices`.

    Raises:
        ConfigError: Horovod is not installed, or is not the one that started this process; more processes than GPUs.
    """
    if place.size == 1:
        check_alone()
        return Processes()
    if bind_cores:
        nodes = [gpu_node(pci_id) for pci_id in read_gpus().pci_ids[: place.local_size]]
        take_cores(place.local_rank, place.local_size, gpu_nodes=nodes)
    return HorovodProcesses(place, use_own_device(place, device))


def _meet(point: slurm.MeetingPoint, place: Place) -> Any:
    """Let Horovod find the other tasks of srun. Return the server of rank 0, which must stay until the job ends."""
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    own_address = own_address_toward(slurm.resolve(point.neighbour))
    # On the first node itself, its name may mean the loopback.
    address = own_address if point.node == 0 else slurm.resolve(point.host)
    interface = os.environ.get("HOROVOD_GLOO_IFACE") or interface_of(own_address)
    os.environ.update(slurm.variables(point, place, address=address, interface=interface))
    server = None
    if place.rank == 0:
        try:
            server = RendezvousHTTPServer(("", point.port), RendezvousHandler, 0)
        except OSError as error:
            raise ConfigError(f"port {point.port} of {point.host} cannot be served: {error.strerror}") from error
        server.init(_slots(point.tasks, [slurm.host_key(node) for node in range(len(point.tasks))]))
        threading.Thread(target=server.serve_forever, name="mrcnn-meeting-point", daemon=True).start()
    slurm.wait_for_server(point, address)
    return server


def _choose_interface() -> None:
    """Bind Gloo to the network interface that leads to the meeting point.

    By default Gloo binds to the address of the host's name: on Debian 127.0.1.1, which other hosts cannot reach.
    """
    address = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
    if address is not None and "HOROVOD_GLOO_IFACE" not in os.environ:
        interface = interface_of(own_address_toward(address))
        os.environ["HOROVOD_GLOO_IFACE"] = interface
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


@contextlib.contextmanager
def rendezvous(counts: Sequence[int], addresses: Sequence[str]) -> Iterator[tuple[int, list[RankStart]]]:
    """Serve the meeting point of the processes of a job.

    Args:
        counts: number of processes of each host.
        addresses: those of the hosts.

    Yields:
        The port, and the ranks in order.

    Raises:
        ConfigError: Horovod is not installed.
    """
    try:
        from horovod.runner.gloo_run import create_slot_env_vars
        from horovod.runner.http.http_server import RendezvousServer
    except ImportError as error:
        raise ConfigError(f"{sum(counts)} processes need Horovod: {INSTALL_HINT}; {error}") from error
    hosts = [number for number, count in enumerate(counts) for _ in range(count)]  # by rank
    slots = _slots(counts, addresses)
    server = RendezvousServer()
    port = server.start()
    try:
        server.init(slots)
        starts = [RankStart(host, create_slot_env_vars(slot)) for host, slot in zip(hosts, slots, strict=True)]
        yield port, starts
    finally:
        server.stop()


def _slots(counts: Sequence[int], names: Sequence[str]) -> list[Any]:
    """Return what Horovod's meeting point wants to know of each process, host by host.

    Args:
        counts: processes of each host.
        names: of the hosts, under which their processes meet each other.
    """
    from horovod.runner.common.util.hosts import SlotInfo

    places = [(number, local) for number, count in enumerate(counts) for local in range(count)]
    return [
        SlotInfo(
            hostname=names[number],
            rank=rank,
            local_rank=local,
            cross_rank=sum(count > local for count in counts[:number]),
            size=len(places),
            local_size=counts[number],
            cross_size=sum(count > local for count in counts),
        )
        for rank, (number, local) in enumerate(places)
    ]


def is_of_exchange(error: BaseException) -> bool:
    """Return whether an exchange between processes raised an error, judged by its type and text.

    Horovod raises errors of its types. In compiled functions TensorFlow raises them, with the name of the op in the
    text. Errors of files never count, because a path may contain any word.
    """
    home = type(error).__module__.partition(".")[0]
    if home == "horovod":
        return True
    is_candidate = home == "tensorflow" or (home == "builtins" and isinstance(error, RuntimeError | ValueError))
    return is_candidate and EXCHANGE_FAILED.search(str(error)) is not None
