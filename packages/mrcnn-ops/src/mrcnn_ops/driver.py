"""What NVIDIA's driver shows to this process, asked without CUDA libraries."""

from __future__ import annotations

import ctypes
import re
from typing import NamedTuple

LIBRARY = "libcuda.so.1"
_NAME_BYTES = 256
_UUID_BYTES = 16


class Gpu(NamedTuple):
    """One GPU, or one slice of a GPU (MIG): `name`, and `uuid` in hexadecimal digits."""

    name: str
    uuid: str


class Driver(NamedTuple):
    """NVIDIA's driver.

    Attributes:
        cuda: highest version of CUDA that it supports, such as (12, 9).
        gpus: those that this process may use (CUDA_VISIBLE_DEVICES), in CUDA's order.
    """

    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


def read_driver(library: str = LIBRARY) -> Driver | None:
    """Ask the driver; None where it is not installed or does not work.

    Examples:
        >>> read_driver("no-such-library.so") is None
        True
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    cuda = (version.value // 1000, version.value % 1000 // 10)
    # cuInit fails where no GPU is visible.
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return Driver(cuda, ())
    gpus = [_gpu(driver, ordinal) for ordinal in range(count.value)]
    return Driver(cuda, tuple(gpu for gpu in gpus if gpu is not None))


def _gpu(driver: ctypes.CDLL, ordinal: int) -> Gpu | None:
    device, uuid = ctypes.c_int(), (ctypes.c_ubyte * _UUID_BYTES)()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    # v2 also tells the slices of one GPU apart; drivers before CUDA 11.4 lack it.
    get_uuid = getattr(driver, "cuDeviceGetUuid_v2", None) or driver.cuDeviceGetUuid
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        or get_uuid(ctypes.byref(uuid), device)
    )
    return None if failed else Gpu(name.value.decode(errors="replace"), bytes(uuid).hex())


def too_old(driver: Driver | None, kernels: str) -> str | None:
    """Explain why a driver cannot run kernels of this build; None if it can, or if there is no GPU to run them.

    Within a major version, a driver runs the code of newer toolkits too.

    Args:
        driver: of this machine.
        kernels: `build_info()["cuda"]`, which begins with the version of the toolkit, or "none".

    Examples:
        >>> too_old(Driver((12, 4), (Gpu("H100", "00"),)), "13.0.88: 90")
        'the driver supports CUDA 12.4, but mrcnn-ops was built with CUDA 13: update the driver, or build with CUDA 12'
    """
    toolkit = re.match(r"\d+", kernels)
    if toolkit is None or driver is None or not driver.gpus or driver.cuda[0] >= int(toolkit[0]):
        return None
    major, minor = driver.cuda
    return (
        f"the driver supports CUDA {major}.{minor}, but mrcnn-ops was built with CUDA {toolkit[0]}: update the driver, "
        f"or build with CUDA {major}"
    )
