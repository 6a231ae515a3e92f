"""Feeding a torch model: torchvision's Mask R-CNN trains on our batches. Skips where torch is not installed."""

import itertools

import numpy as np
import pytest

from mrcnn_data import Augmentation, CocoDataset, TrainLoader, default_buckets, paste_masks

torch = pytest.importorskip("torch")
detection = pytest.importorskip("torchvision.models.detection")


def to_torchvision(batch):
    """Images as torchvision wants them, a list of float [3, h, w], and its target dicts."""
    images, targets = [], []
    for row, (height, width) in enumerate(batch.image_sizes.tolist()):
        valid = batch.images[row, :height, :width]
        # A copy: the batch's memory is reused, and torch does not know when.
        images.append(torch.from_numpy(valid.transpose(2, 0, 1).astype(np.float32) / 255))
        objects = (batch.gt_classes[row] > 0) & batch.gt_has_mask[row]
        boxes = batch.gt_boxes[row, objects]
        masks = paste_masks(batch.gt_masks[row, objects], boxes, height=height, width=width)
        targets.append(
            {
                "boxes": torch.from_numpy(boxes),
                "labels": torch.from_numpy(batch.gt_classes[row, objects].astype(np.int64)),
                "masks": torch.from_numpy(masks),
            }
        )
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
    np.testing.assert_array_equal(targets[0]["masks"][0].numpy(), images[0][0].numpy())


def test_a_torchvision_model_learns_from_real_batches(shared_data):
    dataset = CocoDataset.from_root(shared_data / "coco_open", "val")
    model = detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=dataset.num_classes, min_size=96, max_size=128
    )
    with loader_of(dataset, (96, 128), images_per_batch=2, global_batch=2) as loader:
        for step in itertools.islice(loader.steps(), 1):
            for batch in step:
                losses = model(*to_torchvision(batch))
                total = sum(losses.values())
                total.backward()
    assert set(losses) >= {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert torch.isfinite(total)
    assert total > 0


def loader_of(dataset, sizes, **options):
    short_edge, max_size = sizes
    defaults = {"images_per_batch": 1, "global_batch": 1, "seed": 0, "augmentation": Augmentation()}
    buckets = default_buckets(short_edge, max_size)
    return TrainLoader(dataset, buckets=buckets, short_edge=short_edge, max_size=max_size, **{**defaults, **options})
