"""Fixtures shared by the tests of mrcnn-model."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the tests are of the CPU, also on a machine with GPUs

import keras
import numpy as np
import pytest

from mrcnn_model import COMPILED_OPS, DetectionOps, MaskRCNN, ModelConfig, build_model


def tiny_config(**changes: object) -> ModelConfig:
    """A network with a few thousand numbers in its variables."""
    values: dict = {
        "num_classes": 4,
        "backbone": "resnet18",
        "backbone_width": 8,
        "norm": "gn",
        "gn_groups": 4,
        "freeze_at": 0,
        "fpn_channels": 16,
        "anchor_sizes": [8.0, 16.0, 32.0, 64.0, 128.0],
        "rpn_channels": 16,
        "rpn_samples": 32,
        "rpn_label_only_inside": False,
        "train_pre_nms_top_k": 100,
        "train_post_nms_top_k": 100,
        "train_proposals": 60,
        "detect_pre_nms_top_k": 100,
        "detect_post_nms_top_k": 100,
        "detect_proposals": 50,
        "roi_samples": 24,
        "box_head_channels": 32,
        "mask_head_channels": 16,
        "mask_head_convs": 2,
        "canonical_size": 56.0,
        "detections_per_image": 20,
        "score_threshold": 0.0,
    }
    return ModelConfig(**(values | changes))


@pytest.fixture
def make_tiny_model():
    """Build a seeded tiny model; keyword arguments change its configuration."""

    def make(
        *, precision: str = "float32", seed: int = 0, ops: DetectionOps = COMPILED_OPS, **changes: object
    ) -> MaskRCNN:
        keras.utils.set_random_seed(seed)
        return build_model(tiny_config(**changes), precision=precision, ops=ops)

    return make


def random_batch(
    *, num_images: int = 2, height: int = 64, width: int = 96, num_gt: int = 3, num_valid: int = 2, seed: int = 0
) -> dict[str, np.ndarray]:
    """A batch of noise with a few boxes, as the keyword arguments of `MaskRCNN.losses`."""
    rng = np.random.default_rng(seed)
    sizes = np.stack(
        [rng.integers(height // 2, height + 1, num_images), rng.integers(width // 2, width + 1, num_images)], axis=1
    ).astype(np.int32)
    sizes[0] = (height, width)
    images = np.zeros([num_images, height, width, 3], np.uint8)
    boxes = np.zeros([num_images, num_gt, 4], np.float32)
    classes = np.zeros([num_images, num_gt], np.int32)
    for i, (h, w) in enumerate(sizes):
        images[i, :h, :w] = rng.integers(0, 256, [h, w, 3])
        for j in range(num_valid):
            x1, y1 = rng.uniform(0, w - 20), rng.uniform(0, h - 20)
            boxes[i, j] = x1, y1, x1 + rng.uniform(8, 20), y1 + rng.uniform(8, 20)
            classes[i, j] = rng.integers(1, 4)
    return {
        "images": images,
        "image_sizes": sizes,
        "gt_boxes": boxes,
        "gt_classes": classes,
        "gt_masks": rng.integers(0, 2, [num_images, num_gt, 28, 28]).astype(np.uint8),
        "gt_has_mask": classes > 0,
        "crowd_boxes": np.zeros([num_images, 1, 4], np.float32),
        "sample_seeds": rng.integers(-(2**31), 2**31, [num_images, 2]).astype(np.int32),
    }


@pytest.fixture
def make_batch():
    return random_batch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; skips where it is absent."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    path = Path(os.environ.get("MRCNN_SHARED_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no shared data at {path} (set MRCNN_SHARED_DATA)")
    return path
