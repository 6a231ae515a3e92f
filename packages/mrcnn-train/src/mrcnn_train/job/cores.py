"""Choose the cores of a process of the job, near its GPU. Linux describes the machine in sysfs.

If the threads and memory of a process are on the other socket than its GPU, batches cross the slower link between the
sockets.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

SYSFS = Path("/sys")


def take_cores(local_rank: int, local_size: int, *, gpu_nodes: Sequence[int | None], sysfs: Path = SYSFS) -> None:
    """Bind this process to its share of the cores, unless the launcher has bound it already.

    Args:
        gpu_nodes: NUMA node of the GPU of each process on this machine, None if not known; empty without GPUs.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    if len(allowed) < (os.cpu_count() or 1):
        return
    cores = share_of_cores(local_rank, local_size, nodes=read_nodes(sysfs, allowed), gpu_nodes=gpu_nodes)
    if cores:
        os.sched_setaffinity(0, cores)


def share_of_cores(
    local_rank: int, local_size: int, *, nodes: Sequence[Sequence[int]], gpu_nodes: Sequence[int | None]
) -> list[int]:
    """Return the cores of one process: neighbouring cores, an equal part of a NUMA node.

    Args:
        nodes: cores of each NUMA node.
        gpu_nodes: see `take_cores`. If one is not known, the processes are spread evenly over the nodes.

    Returns:
        The cores; an empty list if there are fewer cores than processes.

    >>> share_of_cores(1, 4, nodes=[[0, 1, 2, 3], [4, 5, 6, 7]], gpu_nodes=[])
    [2, 3]
    >>> share_of_cores(1, 2, nodes=[[0, 1, 2, 3], [4, 5, 6, 7]], gpu_nodes=[1, 1])
    [6, 7]
    """
    known = [node for node in gpu_nodes if node is not None and 0 <= node < len(nodes)]
    if len(known) == local_size:
        node_of = known
    elif local_size < len(nodes):  # fewer processes than nodes: each takes an equal part of all cores
        nodes, node_of = [[core for node in nodes for core in node]], [0] * local_size
    else:
        node_of = [rank * len(nodes) // local_size for rank in range(local_size)]
    cores = nodes[node_of[local_rank]]
    beside = [rank for rank in range(local_size) if node_of[rank] == node_of[local_rank]]
    each = len(cores) // len(beside)
    first = beside.index(local_rank) * each
    return list(cores[first : first + each])


def read_nodes(sysfs: Path, allowed: set[int]) -> list[list[int]]:
    """Return the cores of each NUMA node that this process may use; a single node if sysfs shows none."""
    files = sorted(sysfs.glob("devices/system/node/node[0-9]*/cpulist"), key=lambda path: int(path.parent.name[4:]))
    nodes = [[core for core in parse_list(file.read_text()) if core in allowed] for file in files]
    return nodes if any(nodes) else [sorted(allowed)]


def gpu_node(pci_id: str, sysfs: Path = SYSFS) -> int | None:
    """Return the NUMA node of a GPU by its PCI id ("0000:3b:00.0"); None if the system does not say."""
    try:
        node = int((sysfs / "bus" / "pci" / "devices" / pci_id.lower() / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def parse_list(text: str) -> list[int]:
    """Read a list of cores as Linux writes it.

    >>> parse_list("0-2,8,10-11")
    [0, 1, 2, 8, 10, 11]
    """
    cores: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores += range(int(first), int(last or first) + 1)
    return cores
