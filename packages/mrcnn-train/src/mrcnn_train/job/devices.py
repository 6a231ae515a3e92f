"""Choose the GPU or CPU of a process of the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrcnn_model import DeviceError
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.place import Place

if TYPE_CHECKING:
    from mrcnn_model import Device


def use_own_device(place: Place, wanted: str) -> Device:
    """Take the GPU of this process's local rank, or the CPU, before TensorFlow computes; see `mrcnn_model.use_device`.

    A single visible GPU may be a different one for each process (Slurm's --gpus-per-task, a wrapper that sets
    CUDA_VISIBLE_DEVICES). `check_gpus_differ` checks this once the processes are connected.

    Args:
        wanted: the option `device`.

    Raises:
        ConfigError: there is a GPU that cannot be used as it should be, none for "gpu", or fewer GPUs than processes.
    """
    try:
        from mrcnn_model import use_device

        return use_device(wanted, number=place.local_rank, processes=place.local_size)
    except (DeviceError, ImportError) as error:  # mrcnn-ops says in one line which TensorFlow it was built for
        raise ConfigError(str(error)) from error


def describe_devices(devices: Sequence[Device]) -> str:
    """Name the devices of all processes.

    >>> from mrcnn_model import Device
    >>> describe_devices([Device("CPU", "no GPU is visible")])
    'CPU (no GPU is visible)'
    >>> describe_devices([Device("NVIDIA H100", "number 0 of 2", "a"), Device("NVIDIA H100", "number 1 of 2", "b")])
    '2 x NVIDIA H100'
    """
    if len(devices) == 1:
        return str(devices[0])
    counts = Counter(device.name for device in devices)
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def check_gpus_differ(uuids: Sequence[str | None]) -> None:
    """Check that no two processes share a GPU.

    Args:
        uuids: those of the processes' GPUs, by rank; None for a process without a GPU.

    Raises:
        ConfigError: two ranks have the same GPU, or only some ranks have one.
    """
    first_rank: dict[str, int] = {}
    for rank, uuid in enumerate(uuids):
        if uuid is None:
            continue
        if uuid in first_rank:
            raise ConfigError(
                f"processes {first_rank[uuid]} and {rank} have the same GPU: start as many processes as GPUs on each "
                "machine, and let the launcher show each process all of them or only its own"
            )
        first_rank[uuid] = rank
    without = [rank for rank, uuid in enumerate(uuids) if uuid is None]
    if first_rank and without:
        raise ConfigError(f"processes {without} have no GPU, the others have one: see nvidia-smi on their machines")
