"""Find out which process of the job this is, by the variables that its launcher set."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mrcnn_train.errors import ConfigError

# (rank, size, local rank, local size) as horovodrun, Open MPI's mpirun and MPICH's mpiexec name them.
HOROVOD = ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE")
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
HOW_TO_START = "start it with srun, mpirun, horovodrun or launch.processes"


class Place(NamedTuple):
    """The place of a process in its job (rank of size) and on its machine (local rank of local size)."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def launched_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place of this process; rank 0 of 1 without a launcher.

    Raises:
        ConfigError: the launcher's variables are incomplete or contradict each other.
    """
    # These launchers may run inside a Slurm job and inherit its variables, so they are looked for before Slurm.
    for names in (HOROVOD, OPEN_MPI, MPICH):
        if names[0] in environment and (names[2] in environment or not in_slurm_step(environment)):
            return _from_launcher(environment, names)
    if in_slurm_step(environment):
        return _from_slurm(environment)
    if "PMIX_RANK" in environment:
        raise ConfigError(f"PMIX_RANK={environment['PMIX_RANK']}, but no size in the environment: {HOW_TO_START}")
    return Place()


def check_alone(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a single process in a Slurm job that has room for several.

    Raises:
        ConfigError: SLURM_NTASKS is more than 1, and this process was not started by srun.
    """
    tasks = environment.get("SLURM_NTASKS", "1")
    if "SLURM_JOB_ID" in environment and not in_slurm_step(environment) and tasks != "1":
        raise ConfigError(
            f"SLURM_NTASKS={tasks}, but srun did not start this process: start it with srun or "
            f"launch.processes={tasks}, or unset SLURM_NTASKS to train in a single process"
        )


def _from_launcher(environment: Mapping[str, str], names: Sequence[str]) -> Place:
    is_single = environment.get(names[1]) == "1"
    missing = [name for name in names if name not in environment]
    if missing and not (is_single and names[1] not in missing):
        raise ConfigError(f"{names[0]} is in the environment, but {', '.join(missing)} is not: {HOW_TO_START}")
    values = [_number(environment, name, default) for name, default in zip(names, (0, 1, 0, 1), strict=True)]
    return _checked(Place(*values), names)


def in_slurm_step(environment: Mapping[str, str]) -> bool:
    """Return whether srun started this process."""
    # A batch script has SLURM_PROCID=0 too, but no step.
    return "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment


def _from_slurm(environment: Mapping[str, str]) -> Place:
    """Return the place of a task of srun, with any value of its option --mpi."""
    size_name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    place = Place(
        rank=_number(environment, "SLURM_PROCID"),
        size=_number(environment, size_name),
        local_rank=_number(environment, "SLURM_LOCALID"),
        local_size=_tasks_of_node(environment),
    )
    for other, value in (("PMI_RANK", place.rank), ("PMIX_RANK", place.rank), ("PMI_SIZE", place.size)):
        if _number(environment, other, value) != value:
            ours = size_name if other == "PMI_SIZE" else "SLURM_PROCID"
            raise ConfigError(f"{other}={environment[other]} in the environment contradicts {ours}={value}")
    return _checked(place, ("SLURM_PROCID", size_name, "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"))


def _tasks_of_node(environment: Mapping[str, str]) -> int:
    tasks = tasks_per_node(environment)
    node = _number(environment, "SLURM_NODEID")
    if not 0 <= node < len(tasks):
        raise ConfigError(f"SLURM_NODEID={node} in the environment, but the step has {len(tasks)} nodes")
    return tasks[node]


def tasks_per_node(environment: Mapping[str, str]) -> list[int]:
    """Return the number of a Slurm step's tasks on each of its nodes: "2(x2),1" is [2, 2, 1]."""
    name = "SLURM_STEP_TASKS_PER_NODE"
    text = environment.get(name, "")
    tasks: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ConfigError(f'{name}="{text}" in the environment is not a list like "2(x3),1": {HOW_TO_START}')
        tasks += [int(match[1])] * int(match[2] or 1)
    return tasks


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    if name not in environment and default is not None:
        return default
    try:
        return int(environment[name])
    except KeyError:
        raise ConfigError(f"{name} is missing in the environment: {HOW_TO_START}") from None
    except ValueError:
        raise ConfigError(f"{name}={environment[name]} in the environment is not a number") from None


def _checked(place: Place, names: Sequence[str]) -> Place:
    for value, name, limit, limit_name in (
        (place.rank, names[0], place.size, names[1]),
        (place.local_rank, names[2], place.local_size, names[3]),
    ):
        if not 0 <= value < limit:
            raise ConfigError(f"{name}={value} in the environment is not below {limit_name}={limit}")
    if place.local_size > place.size:
        raise ConfigError(f"{names[3]}={place.local_size} in the environment is more than {names[1]}={place.size}")
    return place
