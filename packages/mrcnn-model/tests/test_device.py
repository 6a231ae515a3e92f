"""Which device a process takes, and what is said where a GPU is there but would not be used as it should be."""

from __future__ import annotations

import os

import pytest
import tensorflow as tf

from mrcnn_model import Device, DeviceError, use_device, use_tf32
from mrcnn_model.device import device_fault
from mrcnn_ops import Driver, Gpu

H100 = Driver((12, 9), (Gpu("NVIDIA H100", "aa"), Gpu("NVIDIA H100", "bb")))
KERNELS = "12.9.86: 70-real 90"


@pytest.fixture
def machine(monkeypatch):
    """Pretends a machine; returns the devices that are made visible, and those whose memory grows."""
    chosen, growing = [], []

    def pretend(*, num_gpus: int, driver: Driver | None = H100, kernels: str = KERNELS, capability=(7, 5)):
        gpus = [f"gpu {number}" for number in range(num_gpus)]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: chosen.append(devices))
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: growing.append((gpu, on)))
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda gpu: {"device_name": f"NVIDIA H100 {gpu[-1]}", "compute_capability": capability},
        )
        monkeypatch.setattr("mrcnn_model.device.read_driver", lambda: driver)
        monkeypatch.setattr("mrcnn_model.device.build_info", lambda: {"cuda": kernels})
        return chosen, growing

    return pretend


def test_one_process_takes_one_of_many_gpus_whose_memory_grows(machine):
    chosen, growing = machine(num_gpus=2)
    assert use_device() == Device("NVIDIA H100 0", "number 0 of 2", "aa")
    assert use_device(number=1, processes=2) == Device("NVIDIA H100 1", "number 1 of 2", "bb")
    assert chosen == ["gpu 0", "gpu 1"]
    assert growing == [("gpu 0", True), ("gpu 1", True)]


@pytest.mark.parametrize(("given", "kept"), [(None, str(4 << 30)), ("123", "123")])
def test_compiled_kernels_are_kept(machine, monkeypatch, given, kept):
    machine(num_gpus=0, driver=None)
    monkeypatch.setenv("CUDA_CACHE_MAXSIZE", given or "")
    if given is None:
        monkeypatch.delenv("CUDA_CACHE_MAXSIZE")
    use_device()
    assert os.environ["CUDA_CACHE_MAXSIZE"] == kept


def test_a_process_that_is_shown_its_own_gpu_takes_it(machine):
    machine(num_gpus=1, driver=H100._replace(gpus=H100.gpus[1:]))
    assert use_device(number=3, processes=4) == Device("NVIDIA H100 0", "", "bb")


def test_more_processes_than_gpus(machine):
    machine(num_gpus=2)
    with pytest.raises(DeviceError, match="4 processes on a machine of 2 GPUs: start as many processes as GPUs"):
        use_device(number=0, processes=4)


def test_gpus_that_cannot_be_told_apart(machine):
    """TensorFlow leaves out a GPU that only drives a display."""
    machine(num_gpus=1)
    assert use_device().uuid is None
    with pytest.raises(DeviceError, match=r"the driver shows 2 GPUs, TensorFlow sees 1.*CUDA_VISIBLE_DEVICES"):
        use_device(number=1, processes=2)


def test_names_and_numbers_that_are_none(machine):
    machine(num_gpus=2)
    with pytest.raises(ValueError, match="'cuda' is not one of auto, cpu, gpu"):
        use_device("cuda")
    with pytest.raises(DeviceError, match="4 processes on a machine of 2 GPUs"):
        use_device(number=3)


def test_the_cpu_where_there_is_no_gpu_or_where_it_is_asked_for(machine):
    chosen, growing = machine(num_gpus=0, driver=None, kernels="none")
    assert str(use_device()) == "CPU (no GPU is visible)"
    assert str(use_device("cpu")) == "CPU"
    machine(num_gpus=2, kernels="none")
    assert str(use_device("cpu", cpu_option="--device cpu")) == "CPU (--device cpu; 2 GPUs not used)"
    assert chosen == [[], []]
    assert growing == []


@pytest.mark.parametrize(
    ("num_gpus", "driver", "kernels", "words"),
    [
        (0, H100, KERNELS, r"the driver shows 2 GPUs \(NVIDIA H100\), but TensorFlow sees none: `make gpu`"),
        (0, H100._replace(gpus=H100.gpus[:1]), "none", "the driver shows 1 GPU "),
        (1, H100, "none", "mrcnn-ops was built without CUDA kernels"),
        (
            1,
            H100._replace(cuda=(11, 8)),
            KERNELS,
            r"the driver supports CUDA 11\.8, but mrcnn-ops was built",
        ),
    ],
)
@pytest.mark.parametrize("wanted", ["auto", "gpu"])
def test_a_gpu_that_would_not_be_used_is_an_error_with_the_cure(machine, num_gpus, driver, kernels, words, wanted):
    machine(num_gpus=num_gpus, driver=driver, kernels=kernels)
    with pytest.raises(DeviceError, match=f"{words}.*--device cpu computes without GPUs"):
        use_device(wanted, cpu_option="--device cpu")
    assert use_device("cpu").name == "CPU"


@pytest.mark.parametrize("driver", [None, Driver((12, 9), ())])
def test_a_gpu_that_is_asked_for_and_not_there(driver):
    assert device_fault("auto", driver=driver, num_gpus=0, kernels="none") is None
    assert "no GPU is visible" in str(device_fault("gpu", driver=driver, num_gpus=0, kernels="none"))


def test_a_choice_that_comes_too_late_is_explained(machine, monkeypatch):
    machine(num_gpus=1)

    def refuse(*_):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", refuse)
    with pytest.raises(DeviceError, match=r"TensorFlow computes already.*cannot be modified"):
        use_device()


@pytest.fixture
def settings(monkeypatch):
    """Collects what is set instead of setting it: whether TF32 is used, and the options of Grappler."""
    found = []
    monkeypatch.setattr(tf.config.experimental, "enable_tensor_float_32_execution", found.append)
    monkeypatch.setattr(tf.config.optimizer, "set_experimental_options", found.append)
    return found


def test_float32_on_tensor_cores_keeps_the_layout_of_the_network(machine, settings):
    machine(num_gpus=2, capability=(9, 0))
    device = use_device(number=1)
    assert str(device) == "NVIDIA H100 1 with TF32 (number 1 of 2)"
    assert settings == [True, {"layout_optimizer": False}]
    settings.clear()
    assert str(use_tf32(device, False)) == "NVIDIA H100 1 without TF32 (number 1 of 2)"
    assert settings == [False, {"layout_optimizer": True}]
    assert use_device(tf32=False).tf32 is False


def test_other_devices_are_left_as_they_are(machine, settings):
    machine(num_gpus=1, capability=(7, 5))
    assert str(use_device(tf32=False)) == "NVIDIA H100 0"
    machine(num_gpus=0, driver=None, kernels="none")
    assert str(use_device(tf32=False)) == "CPU (no GPU is visible)"
    assert settings == []


def test_the_settings_reach_tensorflow():
    gpu = Device("NVIDIA H100", tf32=True)
    try:
        use_tf32(gpu, False)
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
        assert tf.config.optimizer.get_experimental_options()["layout_optimizer"]
        use_tf32(gpu, True)
        assert tf.config.experimental.tensor_float_32_execution_enabled()
        assert not tf.config.optimizer.get_experimental_options()["layout_optimizer"]
    finally:
        tf.config.optimizer.set_experimental_options({"layout_optimizer": True})
