"""The cores that a process takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrcnn_train.job import facts
from mrcnn_train.job.cores import gpu_node, parse_list, read_nodes, share_of_cores, take_cores

TWO_SOCKETS = [list(range(0, 8)), list(range(8, 16))]


def machine(folder: Path) -> Path:
    """A machine of two sockets with 8 cores each, and a GPU at each."""
    for node, cores in enumerate(("0-7", "8-15")):
        path = folder / "devices" / "system" / "node" / f"node{node}"
        path.mkdir(parents=True)
        (path / "cpulist").write_text(cores + "\n")
        gpu = folder / "bus" / "pci" / "devices" / f"0000:{node}b:00.0"
        gpu.mkdir(parents=True)
        (gpu / "numa_node").write_text(f"{1 - node}\n")
    return folder


def test_two_processes_take_the_node_of_their_gpu() -> None:
    assert share_of_cores(0, 2, nodes=TWO_SOCKETS, gpu_nodes=[1, 0]) == TWO_SOCKETS[1]
    assert share_of_cores(1, 2, nodes=TWO_SOCKETS, gpu_nodes=[1, 0]) == TWO_SOCKETS[0]


@pytest.mark.parametrize("gpu_nodes", [[], [None] * 8, [0, 1]])
def test_unknown_nodes_are_filled_evenly(gpu_nodes: list[int | None]) -> None:
    shares = [share_of_cores(rank, 8, nodes=TWO_SOCKETS, gpu_nodes=gpu_nodes) for rank in range(8)]
    assert shares == [[2 * rank, 2 * rank + 1] for rank in range(8)]


@pytest.mark.parametrize("size", range(1, 20))
def test_no_core_is_taken_twice(size: int) -> None:
    shares = [share_of_cores(rank, size, nodes=TWO_SOCKETS, gpu_nodes=[]) for rank in range(size)]
    taken = [core for share in shares for core in share]
    assert len(taken) == len(set(taken))
    if size <= 16:
        assert all(shares)


def test_a_process_that_the_launcher_bound_keeps_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[list[int]] = []
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: given.append(cores))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    take_cores(1, 4, gpu_nodes=[], sysfs=machine(tmp_path))
    assert given == []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    take_cores(1, 4, gpu_nodes=[], sysfs=tmp_path)
    assert given == [[4, 5, 6, 7]]


def test_nodes_and_gpus_of_a_machine(tmp_path: Path) -> None:
    sysfs = machine(tmp_path)
    assert read_nodes(sysfs, set(range(16))) == TWO_SOCKETS
    assert read_nodes(sysfs, {1, 9}) == [[1], [9]]
    assert read_nodes(tmp_path / "none", {3, 1}) == [[1, 3]]
    assert [gpu_node(f"0000:{n}B:00.0", sysfs) for n in range(3)] == [1, 0, None]
    (sysfs / "bus/pci/devices/0000:0b:00.0/numa_node").write_text("-1\n")  # a machine of one node
    assert gpu_node("0000:0b:00.0", sysfs) is None


def test_the_driver_is_asked_for_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "550.54.15, 00000000:3B:00.0, NVIDIA H100 80GB HBM3\n550.54.15, 00000000:5E:00.0, Tesla V100, 32GB"
    monkeypatch.setattr(facts, "_output", lambda *command: listed)
    gpus = facts.read_gpus()
    assert gpus.models == ["NVIDIA H100 80GB HBM3", "Tesla V100, 32GB"]
    assert gpus.pci_ids == ["0000:3b:00.0", "0000:5e:00.0"]
    assert gpus.driver == "550.54.15"
    monkeypatch.setattr(facts, "_output", lambda *command: None)
    assert facts.read_gpus() == ([], [], None)


def test_an_empty_list_has_no_cores() -> None:
    assert parse_list("\n") == []
