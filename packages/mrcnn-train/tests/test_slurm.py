"""The meeting point of srun's tasks. infra/tests runs whole jobs under srun."""

import socket
import threading
import time

import pytest

from mrcnn_train import ConfigError
from mrcnn_train.job import slurm
from mrcnn_train.job.place import Place

STEP = {
    "SLURM_JOB_ID": "30007",
    "SLURM_STEP_ID": "1",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_STEP_NODELIST": "gpu[01-02]",
}


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("one", ["one"]),
        ("one,two", ["one", "two"]),
        ("a,b[01-03,7]-x", ["a", "b01-x", "b02-x", "b03-x", "b7-x"]),
        ("r[1-2]n[08-09]", ["r1n08", "r1n09", "r2n08", "r2n09"]),
    ],
)
def test_node_names(nodelist: str, names: list[str]) -> None:
    assert slurm.node_names(nodelist) == names


def test_meeting_point_is_the_same_for_all_tasks() -> None:
    point = slurm.meeting_point(STEP, has_mpi=False)
    assert point == ("gpu01", "gpu01", 20_108, [2, 1], 1)
    first = slurm.meeting_point(STEP | {"SLURM_NODEID": "0"}, has_mpi=False)
    assert first == ("gpu01", "gpu02", 20_108, [2, 1], 0)  # whose own name may be that of its loopback
    alone = {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "gpu01"}
    assert slurm.meeting_point(STEP | alone, has_mpi=False) == ("127.0.0.1", "127.0.0.1", 20_108, [2], 0)


def test_who_needs_a_meeting_point() -> None:
    def needs(has_mpi: bool, **more: str) -> bool:
        return slurm.meeting_point(STEP | more, has_mpi=has_mpi) is not None

    assert needs(has_mpi=True)
    assert needs(has_mpi=True, PMI_RANK="2")
    assert needs(has_mpi=False, PMIX_RANK="2")
    assert not needs(has_mpi=True, PMIX_RANK="2")
    assert needs(has_mpi=True, PMIX_RANK="2", HOROVOD_CONTROLLER="gloo")
    assert not needs(has_mpi=False, HOROVOD_RANK="0")
    assert not needs(has_mpi=True, OMPI_COMM_WORLD_RANK="0")
    assert slurm.meeting_point({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, has_mpi=False) is None


def test_a_node_list_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="SLURM_STEP_NODELIST names 1 nodes"):
        slurm.meeting_point(STEP | {"SLURM_STEP_NODELIST": "gpu01"}, has_mpi=False)


def test_variables_of_horovod() -> None:
    point = slurm.MeetingPoint("a", "a", 20_001, [2, 1, 2], node=2)
    place = Place(4, 5, local_rank=1, local_size=2)
    values = slurm.variables(point, place, address="10.0.0.1", interface="eth1")
    assert [values[f"HOROVOD_{name}"] for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")] == ["4", "5", "1", "2"]
    assert [values[f"HOROVOD_CROSS_{name}"] for name in ("RANK", "SIZE")] == ["1", "2"]  # node 1 has no second task
    assert values["HOROVOD_GLOO_RENDEZVOUS_ADDR"] == "10.0.0.1"
    assert values["HOROVOD_GLOO_IFACE"] == "eth1"


def test_a_name_without_an_address() -> None:
    with pytest.raises(ConfigError, match=r"node nowhere\.invalid"):
        slurm.resolve("nowhere.invalid")


def test_the_server_comes_later() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    point = slurm.MeetingPoint("one", "one", listener.getsockname()[1], [1, 1], node=1)
    with pytest.raises(ConfigError, match=rf"process 0 cannot be reached at one:{point.port} \(127\.0\.0\.1\)"):
        slurm.wait_for_server(point, "127.0.0.1", patience=0.0)

    def listen_later() -> None:
        time.sleep(0.3)
        listener.listen()

    with listener:
        thread = threading.Thread(target=listen_later)
        thread.start()
        slurm.wait_for_server(point, "127.0.0.1", patience=20)
        thread.join()
