"""Let the tasks of srun find each other over Gloo, where MPI does not do it.

Rank 0 serves Horovod's meeting point on the first node. Its port is computed from the ids of job and step, so that all
tasks find the same address in Slurm's variables.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from mrcnn_train.errors import ConfigError
from mrcnn_train.job.place import OPEN_MPI, Place, in_slurm_step, tasks_per_node

FIRST_PORT, NUM_PORTS = 20_000, 10_000  # below the range from which systems choose ports
PATIENCE = 120.0  # seconds that rank 0 may start later than another task
POLL = 0.2  # seconds
LOOPBACK = "127.0.0.1"


class MeetingPoint(NamedTuple):
    """Where the tasks of a Slurm step meet.

    Attributes:
        host: name of the first node; LOOPBACK for a step of one node.
        neighbour: name of another node, to which the network leads; LOOPBACK for a step of one node.
        port: of the meeting point on `host`.
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
    """Return where this task of srun meets the others; None if MPI or another launcher connects them.

    MPI connects them under `srun --mpi=pmix`. Under pmi2, Open MPI does so only if it was built for that, so we do it.

    Args:
        has_mpi: whether Horovod was built with MPI; not used if HOROVOD_CONTROLLER=gloo is in the environment.

    Raises:
        ConfigError: Slurm's variables contradict each other.
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
    """Return the names in one of Slurm's node lists: "a,b[01-03,7]-x" is a, b01-x, b02-x, b03-x, b7-x."""
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
    """Return the variables by which Horovod's Gloo joins the job.

    Args:
        address: that of `point.host`.
        interface: network interface that leads to the other nodes.
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
    """Return the name by which Horovod groups the tasks of a node. It is not a network name."""
    return f"node{node}"


def resolve(name: str) -> str:
    """Return the IPv4 address of a node.

    Raises:
        ConfigError: the node has no address.
    """
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise ConfigError(f"node {name} has no address here: {error.strerror or error}") from None


def wait_for_server(point: MeetingPoint, address: str, *, patience: float = PATIENCE) -> None:
    """Wait until rank 0 serves the meeting point.

    Raises:
        ConfigError: it cannot be reached within `patience` seconds.
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
