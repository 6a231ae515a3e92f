"""Choose the GPU of a process of the job."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from mrcnn_train.errors import ConfigError
from mrcnn_train.job.place import Place

UUID_BYTES = 16


def use_own_gpu(place: Place) -> str | None:
    """Let GPU memory grow as needed, and take one GPU if there are several processes; before TensorFlow uses GPUs.

    Returns:
        The UUID of the GPU, for `check_gpus_differ`; None for a single process, or without a GPU.

    Raises:
        ConfigError: there are GPUs, but fewer than processes.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if place.size > 1 and gpus:
        gpus = [own_gpu(place, gpus)]
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return gpu_uuid(place.local_rank) if place.size > 1 and gpus else None


def own_gpu(place: Place, gpus: Sequence[Any]) -> Any:
    """Return the GPU of a process: that of its local rank, or the only visible one.

    A single visible GPU may be a different one for each process (Slurm's --gpus-per-task, a wrapper that sets
    CUDA_VISIBLE_DEVICES). `check_gpus_differ` checks this once the processes are connected.

    Raises:
        ConfigError: several GPUs are visible, but fewer than the processes of this machine.
    """
    if len(gpus) == 1:
        return gpus[0]
    if place.local_size > len(gpus):
        raise ConfigError(
            f"{place.local_size} processes on a machine of {len(gpus)} GPUs: start as many processes as GPUs"
        )
    return gpus[place.local_rank]


def gpu_uuid(local_rank: int) -> str | None:
    """Return the UUID of the GPU that `own_gpu` chooses, from the driver; None without a driver or a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * UUID_BYTES)()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return None
    index = 0 if count.value == 1 else local_rank
    # v2 also tells the slices of one GPU (MIG) apart.
    if driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDeviceGetUuid_v2(ctypes.byref(uuid), device):
        return None
    return bytes(uuid).hex()


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
