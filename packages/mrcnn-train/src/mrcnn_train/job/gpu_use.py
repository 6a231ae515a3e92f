"""Read how much memory of its GPU this process has used, and how busy the GPU is."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

NVML = "libnvidia-ml.so.1"  # part of NVIDIA's driver


class GpuUse:
    """Reads the use of a GPU.

    Args:
        peak_bytes: returns the most bytes that tensors have held.
        utilisation: returns the share of the last second, in percent, in which the GPU computed; None if it is unknown.
    """

    def __init__(self, peak_bytes: Callable[[], int], utilisation: Callable[[], int | None]) -> None:
        self._peak_bytes = peak_bytes
        self._utilisation = utilisation

    def read(self) -> dict[str, float]:
        """Return `gpu_memory` in GiB, and `gpu_utilisation` in percent where it is known."""
        numbers = {"gpu_memory": self._peak_bytes() / 2**30}
        utilisation = self._utilisation()
        return numbers if utilisation is None else {**numbers, "gpu_utilisation": float(utilisation)}


def find_gpu_use(uuid: str | None) -> GpuUse | None:
    """Return the reader of the GPU that TensorFlow uses in this process; None without a GPU.

    Args:
        uuid: of the GPU, see `mrcnn_model.Device`; None if it is not known.
    """
    import tensorflow as tf

    if not tf.config.get_visible_devices("GPU"):
        return None

    def peak_bytes() -> int:
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])

    return GpuUse(peak_bytes, utilisation_reader(uuid))


class _Rates(ctypes.Structure):
    """NVML's nvmlUtilization_t: percent of the last sample period, a sixth of a second to a second."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def utilisation_reader(uuid: str | None) -> Callable[[], int | None]:
    """Return a function that reads the utilisation of a GPU from NVML, which takes less than a millisecond.

    It returns None without NVML, for an unknown GPU, and where the driver does not measure it (a slice of a GPU).

    Args:
        uuid: see `find_gpu_use`.
    """
    try:
        library = ctypes.CDLL(NVML)
    except OSError:
        return lambda: None
    device = ctypes.c_void_p()
    if uuid is None or library.nvmlInit_v2():
        return lambda: None
    if library.nvmlDeviceGetHandleByUUID(_nvml_name(uuid).encode(), ctypes.byref(device)):
        return lambda: None

    def read() -> int | None:
        rates = _Rates()
        return None if library.nvmlDeviceGetUtilizationRates(device, ctypes.byref(rates)) else int(rates.gpu)

    return read


def _nvml_name(uuid: str) -> str:
    """Write a UUID as NVML does.

    >>> _nvml_name("0123456789abcdef0123456789abcdef")
    'GPU-01234567-89ab-cdef-0123-456789abcdef'
    """
    return "-".join(("GPU", uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))
