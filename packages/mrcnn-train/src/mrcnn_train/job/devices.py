"""Choose the GPU or CPU of a process of the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mrcnn_model import CPU, DeviceError
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


def settle_options(device: Device, wanted: str, *, tf32: bool) -> Device:
    """Apply the options of the config to a device that the process has, which it may have taken before it got them.

    Raises:
        ConfigError: the process has a GPU, but the resumed run wants the CPU.
    """
    from mrcnn_model import use_tf32

    if wanted == "cpu" and device.name != CPU:
        raise ConfigError(
            "the run has device=cpu, but the processes have taken GPUs: give device=cpu, or another device, on the "
            "command line too"
        )
    return use_tf32(device, tf32)


def describe_devices(devices: Sequence[Device]) -> str:
    """Name the devices of all processes.

    >>> from mrcnn_model import Device
    >>> describe_devices([Device("CPU", "no GPU is visible")] * 2)
    '2 x CPU (no GPU is visible)'
    >>> describe_devices([Device("NVIDIA H100", "number 0 of 2", "a"), Device("NVIDIA H100", "number 1 of 2", "b")])
    '2 x NVIDIA H100'
    """
    if len(devices) == 1:
        return str(devices[0])
    counts = Counter(str(device) if device.name == CPU else device.described for device in devices)
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def check_gpus_differ(devices: Sequence[Device]) -> None:
    """Check that no two processes share a GPU.

    Args:
        devices: those of the processes, by rank. GPUs without a UUID, which are not NVIDIA's, cannot be compared.

    Raises:
        ConfigError: two ranks have the same GPU, or only some ranks have one.
    """
    first_rank: dict[str, int] = {}
    for rank, device in enumerate(devices):
        if device.uuid is None:
            continue
        if device.uuid in first_rank:
            raise ConfigError(
                f"processes {first_rank[device.uuid]} and {rank} have the same GPU: start as many processes as GPUs on "
                "each machine, and let the launcher show each process all of them or only its own"
            )
        first_rank[device.uuid] = rank
    without = [rank for rank, device in enumerate(devices) if device.name == CPU]
    if 0 < len(without) < len(devices):
        raise ConfigError(f"processes {without} have no GPU, the others have one: see nvidia-smi on their machines")
