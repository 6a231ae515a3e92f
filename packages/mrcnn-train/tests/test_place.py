"""The place of a process under each launcher, and the cores and the GPU that it takes."""

import pytest

from mrcnn_model import Device
from mrcnn_train import ConfigError
from mrcnn_train.app import _arguments_of_ranks
from mrcnn_train.job.devices import check_gpus_differ, describe_devices, use_own_device
from mrcnn_train.job.distributed import Processes
from mrcnn_train.job.place import Place, check_alone, launched_place, tasks_per_node

# Seen in tasks of Slurm 22.05: `srun -N 2 -n 3`, the task of the second node.
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "4"}


def variables(names: str, *values: int) -> dict[str, str]:
    return dict(zip(names.split(), map(str, values), strict=True))


HOROVOD = "HOROVOD_RANK HOROVOD_SIZE HOROVOD_LOCAL_RANK HOROVOD_LOCAL_SIZE"
OPEN_MPI = "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE"
HYDRA = "PMI_RANK PMI_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place(0, 1, 0, 1)),
        (variables(HOROVOD, 3, 8, 1, 2), Place(3, 8, 1, 2)),
        (variables(OPEN_MPI, 1, 2, 1, 2), Place(1, 2, 1, 2)),
        (variables(OPEN_MPI, 1, 2, 1, 2) | {"PMIX_RANK": "1"}, Place(1, 2, 1, 2)),
        (variables(HYDRA, 5, 8, 1, 4), Place(5, 8, 1, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, Place()),
        (SRUN, Place(2, 3, 0, 1)),  # --mpi=none
        (SRUN | {"PMIX_RANK": "2"}, Place(2, 3, 0, 1)),
        (SRUN | {"PMI_RANK": "2", "PMI_SIZE": "3"}, Place(2, 3, 0, 1)),
        (SRUN | {"SLURM_PROCID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}, Place(1, 3, 1, 2)),
        # mpirun in a Slurm job starts its daemons by srun: their step is not the job of the processes.
        (SRUN | variables(OPEN_MPI, 4, 8, 0, 4), Place(4, 8, 0, 4)),
        (SRUN | variables(HYDRA, 4, 8, 0, 4), Place(4, 8, 0, 4)),
        (SRUN | variables(HOROVOD, 1, 2, 1, 2), Place(1, 2, 1, 2)),
        (BATCH, Place()),  # its launch.processes or mpirun are still to come
    ],
)
def test_place(environment: dict[str, str], place: Place) -> None:
    assert launched_place(environment) == place


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (variables(HOROVOD, 2, 2, 0, 1), "HOROVOD_RANK=2 in the environment is not below HOROVOD_SIZE=2"),
        (variables(HOROVOD, -1, 2, 0, 1), "HOROVOD_RANK=-1"),
        (variables(HOROVOD, 0, 0, 0, 1), "HOROVOD_SIZE=0"),
        (variables(HOROVOD, 0, 2, 1, 1), "HOROVOD_LOCAL_RANK=1 in the environment is not below HOROVOD_LOCAL_SIZE=1"),
        (variables(HOROVOD, 0, 2, 0, 4), "HOROVOD_LOCAL_SIZE=4 in the environment is more than HOROVOD_SIZE=2"),
        (variables(HOROVOD, 0, 2, 0, 1) | {"HOROVOD_SIZE": "x"}, "HOROVOD_SIZE=x in the environment is not a number"),
        ({"HOROVOD_RANK": "1"}, "HOROVOD_RANK is in the environment, but HOROVOD_SIZE, .* is not"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_LOCAL_RANK, .* is not"),
        # Every process would take the GPU of local rank 0.
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "MPI_LOCALRANKID, MPI_LOCALNRANKS is not"),
        ({"PMIX_RANK": "1"}, "PMIX_RANK=1, but no size"),
        (SRUN | {"PMI_RANK": "0", "PMI_SIZE": "1"}, "PMI_RANK=0 in the environment contradicts SLURM_PROCID=2"),
        (SRUN | {"PMI_RANK": "2", "PMI_SIZE": "1"}, "PMI_SIZE=1 in the environment contradicts SLURM_STEP_NUM_TASKS=3"),
        (SRUN | {"PMIX_RANK": "0"}, "PMIX_RANK=0"),
        (SRUN | {"SLURM_NODEID": "2"}, "SLURM_NODEID=2"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": ""}, "SLURM_STEP_TASKS_PER_NODE"),
        ({name: value for name, value in SRUN.items() if name != "SLURM_LOCALID"}, "SLURM_LOCALID is missing"),
    ],
)
def test_a_place_that_cannot_be(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launched_place(environment)


def test_tasks_per_node() -> None:
    assert tasks_per_node({"SLURM_STEP_TASKS_PER_NODE": "8(x3),2,1(x2)"}) == [8, 8, 8, 2, 1, 1]


def test_one_process_in_a_slurm_job_of_several() -> None:
    with pytest.raises(ConfigError, match=r"SLURM_NTASKS=4.*srun or launch\.processes=4"):
        check_alone(BATCH)
    check_alone(BATCH | {"SLURM_NTASKS": "1"})
    check_alone({"SLURM_JOB_ID": "7"})
    check_alone({})
    check_alone(SRUN)


def test_processes_that_share_a_gpu() -> None:
    a, b, cpu, other = Device("H100", "", "a"), Device("H100", "", "b"), Device("CPU"), Device("MI300")
    check_gpus_differ([a, b])
    check_gpus_differ([cpu, cpu])
    check_gpus_differ([other, other])
    with pytest.raises(ConfigError, match="processes 1 and 2 have the same GPU"):
        check_gpus_differ([a, b, b])
    with pytest.raises(ConfigError, match=r"processes \[1\] have no GPU"):
        check_gpus_differ([a, cpu])


def test_devices_of_several_processes_are_counted() -> None:
    devices = [Device("NVIDIA H100", f"number {n} of 8", f"{n}") for n in range(8)]
    assert describe_devices(devices) == "8 x NVIDIA H100"
    assert describe_devices([*devices[:1], Device("Tesla T4", "", "t")]) == "1 x NVIDIA H100, 1 x Tesla T4"
    assert describe_devices(devices[3:4]) == "NVIDIA H100 (number 3 of 8)"


def test_ranks_take_the_device_of_a_resumed_run(compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose("+experiment=demo", "device=cpu")
    monkeypatch.setattr("sys.argv", ["mrcnn_train", "resume=run"])
    assert _arguments_of_ranks(config) == ["resume=run", "device=cpu"]
    monkeypatch.setattr("sys.argv", ["mrcnn_train", "resume=run", "device=auto"])
    assert _arguments_of_ranks(config) == ["resume=run", "device=auto"]
    taken = Processes()
    taken.device = Device("NVIDIA H100")
    assert taken.devices("auto") == [taken.device]
    with pytest.raises(ConfigError, match=r"the run has device=cpu, but the processes have taken GPUs"):
        taken.devices("cpu")


def test_a_process_takes_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr("mrcnn_model.device.use_device", lambda wanted, **options: asked.update(options, wanted=wanted))
    use_own_device(Place(5, 8, local_rank=1, local_size=4), "gpu")
    assert asked == {"wanted": "gpu", "number": 1, "processes": 4}


def test_a_device_that_cannot_be_used_is_an_error_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no GPU is visible.*device=cpu computes without GPUs"):
        use_own_device(Place(), "gpu")

    def other_tensorflow(*_, **__):
        raise ImportError("mrcnn_ops was built for TensorFlow 2.20")

    monkeypatch.setattr("mrcnn_model.device.use_device", other_tensorflow)
    with pytest.raises(ConfigError, match="was built for TensorFlow"):
        use_own_device(Place(), "auto")


def test_tf32_is_an_option_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[bool] = []
    monkeypatch.setattr("tensorflow.config.experimental.enable_tensor_float_32_execution", chosen.append)
    monkeypatch.setattr("tensorflow.config.optimizer.set_experimental_options", lambda options: None)
    taken = Processes()
    taken.device = Device("NVIDIA H100", "", "a", tf32=True)  # taken before the process got its config
    assert describe_devices(taken.devices("auto", tf32=True)) == "NVIDIA H100 with TF32"
    assert describe_devices(taken.devices("auto", tf32=False) * 2) == "2 x NVIDIA H100 without TF32"
    assert chosen == [True, False]
