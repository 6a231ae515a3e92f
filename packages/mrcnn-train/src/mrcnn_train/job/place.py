"""Which process of the job this is, read from the variables that `horovodrun` or `mpirun` set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from mrcnn_train.errors import ConfigError

# (rank, size, local rank, local size) as horovodrun, Open MPI, and MPICH or Slurm's PMI name them.
RANK_VARIABLES = (
    ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


class Place(NamedTuple):
    """The position of a process in its job and on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def launched_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place that a launcher gave this process; (0, 1, 0, 1) without a launcher.

    Raises:
        ConfigError: the variables are not numbers, or the rank is not below the size.
    """
    for names in RANK_VARIABLES:
        if names[0] not in environment or names[1] not in environment:
            continue
        values = [environment.get(name, default) for name, default in zip(names, "0101", strict=True)]
        try:
            place = Place(*map(int, values))
        except ValueError:
            raise ConfigError(
                f"{names[0]}={values[0]}, {names[1]}={values[1]} in the environment are not numbers"
            ) from None
        if not 0 <= place.rank < place.size:
            raise ConfigError(f"{names[0]}={place.rank} in the environment is not below {names[1]}={place.size}")
        return place
    return Place()
