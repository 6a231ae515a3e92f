"""How the tasks of srun find each other over Gloo, where no MPI does it for them.

Rank 0 serves Horovod's meeting point on the first node, at a port that follows from the job's id; all tasks work out
the same address from Slurm's variables.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from mrcnn_train.errors import ConfigError
from mrcnn_train.job.place import OPEN_MPI, Place, in_slurm_step, tasks_per_node

FIRST_PORT, NUM_PORTS = 20_000, 10_000  # below those that systems hand out by themselves
PATIENCE = 120.0  # seconds that rank 0 may start later than another task
POLL = 0.2
LOOPBACK = "127.0.0.1"


class MeetingPoint(NamedTuple):
    """Where the tasks of a step meet.

    Attributes:
        host: name of the first node; LOOPBACK for a step of one node.
        neighbour: name of a node that this one reaches over the network; LOOPBACK for a step of one node.
        tasks: number of tasks on each node.
        node: index of this task's node.
    """

    host: str
    neighbour: str
    port: int
    tasks: list[int]
    node: int

    def nodes_of(self, local_rank: int) -> list[int]:
        """Return the nodes that have a task of this local rank."""
        return [node for node, count in enumerate(self.tasks) if count > local_rank]


def meeting_point(environment: Mapping[str, str], *, has_mpi: bool) -> MeetingPoint | None:
    """Return where this task of srun meets the others; None where MPI or another launcher brings them together.

    Open MPI starts under `srun --mpi=pmix` by itself. Under pmi2 it does not, unless built for that.

    Args:
        has_mpi: whether Horovod was built with MPI. HOROVOD_CONTROLLER=gloo in the environment overrules it.
    """
    if not in_slurm_step(environment) or any(name in environment for name in ("HOROVOD_RANK", OPEN_MPI[0])):
        return None
    if has_mpi and "PMIX_RANK" in environment and environment.get("HOROVOD_CONTROLLER") != "gloo":
        return None
    tasks, node = tasks_per_node(environment), int(environment["SLURM_NODEID"])
    names = [LOOPBACK] if len(tasks) == 1 else node_names(environment.get("SLURM_STEP_NODELIST", ""))
    if len(names) != len(tasks):
        raise ConfigError(f"SLURM_STEP_NODELIST names {len(names)} nodes, SLURM_STEP_TASKS_PER_NODE {len(tasks)}")
    number = int(environment["SLURM_JOB_ID"]) + 101 * int(environment["SLURM_STEP_ID"])
    neighbour = names[0] if node > 0 else names[-1]
    return MeetingPoint(names[0], neighbour, FIRST_PORT + number % NUM_PORTS, tasks, node)


def node_names(nodelist: str) -> list[str]:
    """Return the names in a node list of Slurm's: "a,b[01-03,7]-x" is a, b01-x, b02-x, b03-x, b7-x."""
    names: list[str] = []
    for element in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", element)
        if match is None:
            names.append(element)
            continue
        head, numbers, tail = match.groups()
        for part in numbers.split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                names += node_names(f"{head}{number:0{len(first)}d}{tail}")
    return names


def variables(point: MeetingPoint, place: Place, *, address: str, interface: str) -> dict[str, str]:
    """Return the environment by which Horovod's Gloo joins the job.

    Args:
        address: of `point.host`.
        interface: the network card that leads to the other nodes.
    """
    beside = point.nodes_of(place.local_rank)
    values = {
        "RANK": place.rank,
        "SIZE": place.size,
        "LOCAL_RANK": place.local_rank,
        "LOCAL_SIZE": place.local_size,
        "CROSS_RANK": beside.index(point.node),
        "CROSS_SIZE": len(beside),
        "HOSTNAME": host_key(point.node),
        "CONTROLLER": "gloo",
        "CPU_OPERATIONS": "gloo",
        "GLOO_RENDEZVOUS_ADDR": address,
        "GLOO_RENDEZVOUS_PORT": point.port,
        "GLOO_IFACE": interface,
    }
    return {f"HOROVOD_{name}": str(value) for name, value in values.items()}


def host_key(node: int) -> str:
    """Return the name under which a node's tasks meet each other; not one of the network."""
    return f"node{node}"


def resolve(name: str) -> str:
    """Return the IPv4 address of a node.

    Raises:
        ConfigError: the name has none.
    """
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise ConfigError(f"the address of node {name} is not known here: {error.strerror or error}") from None


def wait_for_server(point: MeetingPoint, address: str, *, patience: float = PATIENCE) -> None:
    """Wait until rank 0 serves the meeting point.

    Raises:
        ConfigError: it cannot be reached.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            socket.create_connection((address, point.port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"process 0 cannot be reached at {point.host}:{point.port} ({address}) after {patience:g} s: "
                    f"{error.strerror or error}. Did it start, and is the port open between the nodes?"
                ) from None
        time.sleep(POLL)
