"""The GPU or CPU that a process computes on: chosen once, before TensorFlow computes, and never without a word."""

from __future__ import annotations

import os
from typing import NamedTuple

import tensorflow as tf

from mrcnn_model.config.devices import CPU, DEVICES, DeviceError
from mrcnn_ops import Driver, build_info, read_driver, too_old

FIRST_WITH_TF32 = (8, 0)  # compute capability of NVIDIA's Ampere


class Device(NamedTuple):
    """What a process computes on.

    Attributes:
        name: "CPU", or the model of the GPU.
        note: what else to say about the choice; "" for nothing.
        uuid: of the GPU, as the driver gives it; None for the CPU, or without NVIDIA's driver.
        tf32: whether it multiplies float32 as TF32; None for a device that cannot.
    """

    name: str
    note: str = ""
    uuid: str | None = None
    tf32: bool | None = None

    @property
    def described(self) -> str:
        """Name, and TF32 or not."""
        return self.name if self.tf32 is None else f"{self.name} with{'' if self.tf32 else 'out'} TF32"

    def __str__(self) -> str:
        return f"{self.described} ({self.note})" if self.note else self.described


def use_device(
    wanted: str = "auto",
    *,
    number: int = 0,
    processes: int = 1,
    cpu_option: str = "device=cpu",
    tf32: bool = True,
) -> Device:
    """Take one GPU, whose memory TensorFlow then takes as it needs it, or the CPU.

    Args:
        wanted: one of `DEVICES`. "auto" takes a GPU where one is visible; "gpu" requires one.
        number: which of the visible GPUs. A single one is taken whatever the number is: a launcher may show each
            process another one.
        processes: how many processes of this machine take a GPU.
        cpu_option: how the user chooses the CPU, for messages.
        tf32: see `use_tf32`.

    Raises:
        ValueError: `wanted` is not one of `DEVICES`.
        DeviceError: there is a GPU, but it cannot be used as it should be; none for "gpu"; fewer GPUs than processes;
            or TensorFlow has computed something already, and its devices can no longer be chosen.
    """
    if wanted not in DEVICES:
        raise ValueError(f"{wanted!r} is not one of {', '.join(DEVICES)}")
    # Before the driver is asked for the first time. TensorFlow has no machine code for the newest GPUs: the driver then
    # compiles its kernels for minutes, and by default keeps 1 GB of them, less than TensorFlow has.
    os.environ.setdefault("CUDA_CACHE_MAXSIZE", str(4 << 30))
    gpus = tf.config.list_physical_devices("GPU")
    try:
        if wanted == "cpu":
            tf.config.set_visible_devices([], "GPU")
            return Device(CPU, f"{cpu_option}; {_count(len(gpus))} not used" if gpus else "")
        driver = read_driver()
        fault = device_fault(wanted, driver=driver, num_gpus=len(gpus), kernels=build_info()["cuda"])
        if fault is not None:
            raise DeviceError(f"{fault}; {cpu_option} computes without GPUs")
        if not gpus:
            return Device(CPU, "no GPU is visible")
        if 1 < len(gpus) <= max(number, processes - 1):
            raise DeviceError(
                f"{max(number + 1, processes)} processes on a machine of {len(gpus)} GPUs: start as many processes as "
                "GPUs"
            )
        if processes > 1 and driver is not None and len(driver.gpus) != len(gpus):
            raise DeviceError(
                f"the driver shows {_count(len(driver.gpus))}, TensorFlow sees {len(gpus)}, so the GPUs of the "
                "processes cannot be told apart: hide the others with CUDA_VISIBLE_DEVICES"
            )
        index = 0 if len(gpus) == 1 else number
        tf.config.set_visible_devices(gpus[index], "GPU")
        tf.config.experimental.set_memory_growth(gpus[index], True)
    except DeviceError:
        raise
    except RuntimeError as error:
        raise DeviceError(f"TensorFlow computes already, so its device cannot be chosen: {error}") from error
    details = tf.config.experimental.get_device_details(gpus[index])
    device = Device(
        details.get("device_name", "GPU"),
        f"number {index} of {len(gpus)}" if len(gpus) > 1 else "",
        driver.gpus[index].uuid if driver is not None and len(driver.gpus) == len(gpus) else None,
        tf32 if details.get("compute_capability", (0, 0)) >= FIRST_WITH_TF32 else None,
    )
    return use_tf32(device, tf32)


def use_tf32(device: Device, wanted: bool) -> Device:
    """Choose whether a GPU multiplies float32 as TF32: on tensor cores, with 10 bits of the fraction instead of 23.

    The layout of convolutions depends on it. With TF32, TensorFlow's kernels compute float32 convolutions in the layout
    that they are given, and ours are NHWC, the layout of tensor cores. Grappler's layout optimizer would still turn
    those of float32 to NCHW, with 64 transposes of feature maps in a step of ResNet-50, so it is switched off. Without
    TF32 each kernel computes in NCHW and would transpose its own inputs, so it stays on. It leaves both half types in
    NHWC either way.

    Args:
        device: of this process, from `use_device`; others than GPUs with TF32 are left as they are.
        wanted: True is TensorFlow's own choice.
    """
    if device.tf32 is None:
        return device
    tf.config.experimental.enable_tensor_float_32_execution(wanted)
    tf.config.optimizer.set_experimental_options({"layout_optimizer": not wanted})
    return device._replace(tf32=wanted)


def device_fault(wanted: str, *, driver: Driver | None, num_gpus: int, kernels: str) -> str | None:
    """Explain what keeps a machine's GPUs from being used as they should be; None if nothing does.

    Args:
        wanted: "auto" or "gpu".
        driver: NVIDIA's, None without one.
        num_gpus: how many GPUs TensorFlow sees.
        kernels: `mrcnn_ops.build_info()["cuda"]`.
    """
    if num_gpus == 0 and driver is not None and driver.gpus:
        return (
            f"the driver shows {_count(len(driver.gpus))} ({driver.gpus[0].name}), but TensorFlow sees none: "
            "`make gpu` or pip install 'tensorflow[and-cuda]', installs the CUDA libraries that it loads"
        )
    if num_gpus == 0:
        return "no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES" if wanted == "gpu" else None
    if kernels == "none":
        return (
            "TensorFlow sees a GPU, but mrcnn-ops was built without CUDA kernels, so its ops would run on the CPU and "
            "copy the feature maps there: `make gpu` builds them (it needs nvcc)"
        )
    return too_old(driver, kernels)


def _count(num_gpus: int) -> str:
    return f"{num_gpus} GPU" + "s" * (num_gpus > 1)
