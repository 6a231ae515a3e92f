"""Feeding a torch model: torchvision's Mask R-CNN trains on our batches.

torch runs in a process of its own, in this environment or that of MRCNN_TORCH_PYTHON, and gets the batch as a file.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from mrcnn_data import Augmentation, CocoDataset, TrainLoader, default_buckets, paste_masks

PYTHON = os.environ.get("MRCNN_TORCH_PYTHON", sys.executable)

LOSSES = """
import json, sys
import numpy as np, torch
from torchvision.models.detection import maskrcnn_resnet50_fpn

given = {name: torch.from_numpy(array) for name, array in np.load(sys.argv[1]).items()}
num_classes, num_images = map(int, sys.argv[2:])
torch.manual_seed(0)
model = maskrcnn_resnet50_fpn(
    weights=None, weights_backbone=None, num_classes=num_classes, min_size=96, max_size=128
)
images = [given[f"image{row}"] for row in range(num_images)]
targets = [{name: given[f"{name}{row}"] for name in ("boxes", "labels", "masks")} for row in range(num_images)]
losses = model(images, targets)
sum(losses.values()).backward()
gradients = [float(weight.grad.norm()) for weight in model.parameters() if weight.requires_grad]
print(json.dumps([{name: float(loss) for name, loss in losses.items()}, gradients]))
"""


def to_torchvision(batch):
    """Images as torchvision expects them, float32 [3, h, w] each, and the arrays of its target dicts."""
    images, targets = [], []
    for row, (height, width) in enumerate(batch.image_sizes.tolist()):
        images.append(batch.images[row, :height, :width].transpose(2, 0, 1) / np.float32(255))
        objects = (batch.gt_classes[row] > 0) & batch.gt_has_mask[row]
        boxes = batch.gt_boxes[row, objects]
        masks = paste_masks(batch.gt_masks[row, objects], boxes, height=height, width=width)
        targets.append({"boxes": boxes, "labels": batch.gt_classes[row, objects].astype(np.int64), "masks": masks})
    return images, targets


def test_targets_by_hand(write_coco):
    image = np.zeros((32, 48, 3), np.uint8)
    image[4:20, 8:24, 0] = 255
    annotation = {"bbox": [8, 4, 16, 16], "segmentation": [[8, 4, 24, 4, 24, 20, 8, 20]]}
    dataset = CocoDataset.from_root(write_coco([image], [annotation]), "train")
    with loader_of(dataset, (32, 48), augmentation=Augmentation(0.0)) as loader:
        images, targets = to_torchvision(next(loader.steps())[0])
    assert images[0].shape == (3, 32, 48)
    assert targets[0]["boxes"].tolist() == [[8, 4, 24, 20]]
    assert targets[0]["labels"].tolist() == [1]
    np.testing.assert_array_equal(targets[0]["masks"][0], images[0][0])


@pytest.mark.slow
@pytest.mark.skipif(
    "MRCNN_TORCH_PYTHON" not in os.environ and importlib.util.find_spec("torchvision") is None,
    reason="torchvision is not installed here, and MRCNN_TORCH_PYTHON names no Python that has it",
)
def test_a_torchvision_model_learns_from_real_batches(shared_data, tmp_path):
    dataset = CocoDataset.from_root(shared_data / "coco_open", "val")
    with loader_of(dataset, (96, 128), images_per_batch=2, global_batch=2) as loader:
        images, targets = to_torchvision(next(loader.steps())[0])
    arrays = {f"image{row}": image for row, image in enumerate(images)}
    for row, target in enumerate(targets):
        arrays |= {f"{name}{row}": array for name, array in target.items()}
    np.savez(tmp_path / "batch.npz", **arrays)
    command = [PYTHON, "-c", LOSSES, tmp_path / "batch.npz", str(dataset.num_classes), str(len(images))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    losses, gradients = json.loads(result.stdout)
    assert set(losses) >= {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert all(math.isfinite(value) for value in [*losses.values(), *gradients])
    assert losses["loss_mask"] > 0
    assert sum(gradients) > 0


def loader_of(dataset, sizes, **options):
    short_edge, max_size = sizes
    defaults = {"images_per_batch": 1, "global_batch": 1, "seed": 0, "augmentation": Augmentation()}
    buckets = default_buckets(short_edge, max_size)
    return TrainLoader(dataset, buckets=buckets, short_edge=short_edge, max_size=max_size, **{**defaults, **options})
