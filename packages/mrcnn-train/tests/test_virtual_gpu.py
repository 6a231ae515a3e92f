"""Training and detection as a GPU would run them: without a wait for the host, and without needless launches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from virtual_gpu import OWN_OPS, Report, has_gpu_kernels, report, traced

from mrcnn_data import Batch
from mrcnn_eval.inference import augmented_detect, compiled_detect, views
from mrcnn_model import Device, MaskRCNN, ModelConfig, build_model, use_tf32
from mrcnn_train.config.options import OptimizerOptions
from mrcnn_train.training.loss_scale import LossScale
from mrcnn_train.training.state import make_optimizer
from mrcnn_train.training.step import TrainStep

pytestmark = pytest.mark.skipif(not has_gpu_kernels(), reason="this TensorFlow was built without GPU kernels")

KERNELS = Path(__file__).resolve().parents[2] / "mrcnn-ops" / "csrc" / "tf"

# A ResNet-50 in depth; narrow, and with few boxes.
TINY = {
    "num_classes": 4,
    "backbone": "resnet50",
    "backbone_width": 8,
    "fpn_channels": 16,
    "rpn_channels": 16,
    "box_head_channels": 32,
    "mask_head_channels": 16,
    "train_proposals": 64,
    "train_pre_nms_top_k": 64,
    "train_post_nms_top_k": 64,
    "detect_proposals": 64,
    "detect_pre_nms_top_k": 64,
    "detect_post_nms_top_k": 64,
    "roi_samples": 32,
}


@dataclass(frozen=True)
class Case:
    """A training step.

    Attributes:
        launching_ops: the most that all its compiled functions together may have: 5 % more than counted, but below
            1,500 for the usual step in half precision.
        precision, model, optimizer: options that differ from `TINY` and the defaults.
        micro_batches: number of them.
    """

    launching_ops: int
    precision: str = "float32"
    model: dict[str, object] = field(default_factory=dict)
    optimizer: dict[str, object] = field(default_factory=dict)
    micro_batches: int = 1


GROUP_NORM = {"norm": "gn", "fpn_norm": "gn", "head_norm": "gn", "gn_groups": 4, "freeze_at": 0}
CASES = {
    "float32": Case(1273),
    "mixed_float16": Case(1499, "mixed_float16"),
    "mixed_bfloat16": Case(1488, "mixed_bfloat16"),
    "group_norm": Case(1339, "mixed_float16", GROUP_NORM),
    "sync_bn": Case(4657, "mixed_float16", {"norm": "sync_bn", "freeze_at": 0}),
    "cascade": Case(1883, "mixed_float16", {"cascade": True, "class_agnostic_boxes": True}),
    "box_only": Case(1331, "mixed_float16", {"masks": False}),
    "accumulation": Case(2047, "mixed_float16", micro_batches=2),
    "average_of_weights": Case(2155, optimizer={"ema_decay": 0.99}),
    "lars": Case(4633, "mixed_float16", optimizer={"name": "lars"}),
    "novograd": Case(5757, "mixed_float16", optimizer={"name": "novograd"}),
}
FAST = ("float32", "mixed_float16", "group_norm", "cascade", "accumulation")  # all cases take more than a minute
DETECTION = {("mixed_float16", True): 536, ("float32", False): 385}  # precision, masks: as `Case.launching_ops`


def tiny_batch() -> Batch:
    return Batch(
        sample_seeds=np.zeros([1, 2], np.int32),
        images=np.zeros([1, 64, 64, 3], np.uint8),
        image_sizes=np.full([1, 2], 64, np.int32),
        original_sizes=np.full([1, 2], 64, np.int32),
        image_ids=[1],
        gt_boxes=np.zeros([1, 20, 4], np.float32),
        gt_classes=np.zeros([1, 20], np.int32),
        gt_masks=np.zeros([1, 20, 112, 112], np.uint8),
        gt_has_mask=np.zeros([1, 20], bool),
        crowd_boxes=np.zeros([1, 2, 4], np.float32),
    )


def tiny_images() -> tuple[np.ndarray, np.ndarray]:
    batch = tiny_batch()
    return batch.images, batch.image_sizes


def tiny_model(precision: str = "float32", **options: object) -> MaskRCNN:
    return build_model(ModelConfig(**{**TINY, **options}), precision=precision)


@pytest.fixture(autouse=True)
def graphs_as_on_a_gpu() -> Iterator[None]:
    """Set what a process with a GPU sets for Grappler."""
    use_tf32(Device("NVIDIA H200", tf32=True), True)
    yield
    tf.config.optimizer.set_experimental_options({"layout_optimizer": True})


def assert_nothing_waits(found: Report) -> None:
    waits = (found.ops_without_gpu_kernel, found.tensors_to_host, found.layout_transposes)
    assert waits == ({}, (), ())


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in CASES])
def test_a_training_step_waits_for_nothing(name: str) -> None:
    case = CASES[name]
    model = tiny_model(case.precision, **case.model)
    with traced() as functions:
        step = TrainStep(
            model,
            make_optimizer(model, OptimizerOptions(**case.optimizer)),
            micro_batches=case.micro_batches,
            loss_scale=LossScale() if case.precision == "mixed_float16" else None,
        )
        step([tiny_batch()] * case.micro_batches, 0.01, [False])
    assert len(functions) == (1 if case.micro_batches == 1 else 2)  # the second adds up gradients, or updates
    found = [report(function) for function in functions]
    for each in found:
        assert_nothing_waits(each)
    assert sum(each.launching_ops for each in found) <= case.launching_ops


@pytest.mark.parametrize(("precision", "masks"), DETECTION)
def test_detection_waits_for_nothing(precision: str, masks: bool) -> None:
    with traced() as functions:
        compiled_detect(tiny_model(precision, masks=masks))(*tiny_images())
    (found,) = map(report, functions)
    assert_nothing_waits(found)
    assert found.launching_ops <= DETECTION[precision, masks]


def test_detection_on_several_views_waits_for_nothing() -> None:
    with traced() as functions:
        augmented_detect(tiny_model(), views(flip=True))(*tiny_images())
    front, mask = functions  # both views have the same shapes
    for found in map(report, functions):
        assert_nothing_waits(found)
    assert [tensor.dtype for tensor in front.inputs].count(tf.int32) == 1  # the sizes, which come from the host
    assert tf.int32 not in [tensor.dtype for tensor in mask.inputs]  # the classes, which come from the GPU


def test_what_the_virtual_gpu_finds() -> None:
    """Otherwise the tests above could not fail."""

    def waits(images: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME"))  # [1, 32, 32, 64]
        best = tf.argmax(features, axis=-1, output_type=tf.int32)
        crops = tf.image.crop_and_resize(tf.cast(features, tf.uint8), [[0.0, 0, 1, 1]], [0], [4, 4])
        flat = tf.reshape(features, tf.constant([-1, 64], tf.int64))
        return best + 1, crops, flat

    specs = [tf.TensorSpec([1, 32, 32, 64]), tf.TensorSpec([3, 3, 64, 64])]
    function = tf.function(waits).get_concrete_function(*specs)
    found = report(function)
    assert found.ops_without_gpu_kernel == {"CropAndResize": 1}
    readers = {copy.split(" -> ")[1].split()[0] for copy in found.tensors_to_host}
    assert readers == {"AddV2", "CropAndResize", "Reshape"}
    assert found.layout_transposes == ()
    use_tf32(Device("NVIDIA H200", tf32=True), False)
    assert report(function).layout_transposes


def test_own_ops_are_those_with_kernels_in_the_sources() -> None:
    if not KERNELS.is_dir():
        pytest.skip("the sources of mrcnn-ops are not beside this package")
    text = "".join(path.read_text() for path in sorted(KERNELS.glob("*.cc"))).replace("\\\n", "")
    builders = re.findall(r"REGISTER_KERNEL_BUILDER\(\s*Name\(\"(\w+)\"\)\s*\.Device\(DEVICE_GPU\)([^,;]*),", text)
    in_sources = {name: frozenset(re.findall(r'\.HostMemory\("(\w+)"\)', rest)) for name, rest in builders}
    assert len(builders) == text.count("DEVICE_GPU")
    assert in_sources == OWN_OPS
