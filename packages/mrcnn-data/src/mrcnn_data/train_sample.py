"""One training image into its row of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mrcnn_data.augmentation import Augmentation, draw_geometry
from mrcnn_data.batch import Batch
from mrcnn_data.dataset import CocoDataset, Instances
from mrcnn_data.geometry import Geometry
from mrcnn_data.masks import crop_mask, visible_box
from mrcnn_data.seeds import generator, quarter_turns

# After resize and crop: what is thinner than a pixel shows nothing to learn from.
MIN_EDGE = 1.0


def fill_train_row(
    batch: Batch,
    row: int,
    dataset: CocoDataset,
    index: int,
    *,
    augmentation: Augmentation,
    short_edges: Sequence[int],
    max_size: int,
) -> Counter[str]:
    """Load, augment and write image number `index`, its random choices given by `batch.sample_seeds[row]`.

    Writes everything of the row but its seed, padding included.

    Returns:
        What was left out, by kind.
    """
    image = dataset.read_image(index)
    seed = batch.sample_seeds[row]
    rng = generator(seed)
    geometry = draw_geometry(
        augmentation,
        rng,
        source_size=(image.shape[0], image.shape[1]),
        turns=int(quarter_turns(seed[None], augmentation.rotate90)[0]),
        short_edges=short_edges,
        max_size=max_size,
    )
    write_image(batch, row, image, geometry)
    batch.image_ids[row] = dataset.image_ids[index]
    return _write_instances(batch, row, dataset.instances(index), geometry, rng)


def write_image(batch: Batch, row: int, image: np.ndarray, geometry: Geometry) -> None:
    """Write pixels, zero padding and sizes."""
    height, width = geometry.output_size
    canvas = batch.images[row]  # [H, W, 3]
    geometry.write_image(image, canvas[:height, :width])
    canvas[:height, width:] = 0
    canvas[height:] = 0
    batch.image_sizes[row] = height, width
    batch.original_sizes[row] = image.shape[:2]


def _write_instances(
    batch: Batch, row: int, instances: Instances, geometry: Geometry, rng: np.random.Generator
) -> Counter[str]:
    left_out: Counter[str] = Counter()
    boxes = _output_boxes(instances, geometry)  # [n, 4]
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= MIN_EDGE).all(axis=1))
    if not geometry.is_cropped:  # a crop is meant to lose objects
        left_out["objects thinner than a pixel after resizing"] += len(boxes) - len(kept)
    max_gt, max_crowds = batch.gt_boxes.shape[1], batch.crowd_boxes.shape[1]
    if len(kept) > max_gt:
        left_out["objects beyond max_gt"] += len(kept) - max_gt
        kept = np.sort(rng.choice(kept, max_gt, replace=False))  # others in the next epoch

    batch.gt_boxes[row] = 0
    batch.gt_boxes[row, : len(kept)] = boxes[kept]
    batch.gt_classes[row] = 0
    batch.gt_classes[row, : len(kept)] = instances.classes[kept]
    batch.gt_has_mask[row] = False
    for slot, instance in enumerate(kept):
        segmentation = instances.segmentations[instance]
        if segmentation is not None:
            box, mask = batch.gt_boxes[row, slot], batch.gt_masks[row, slot]
            batch.gt_has_mask[row, slot] = crop_mask(segmentation, box, geometry, mask)
    batch.gt_masks[row, ~batch.gt_has_mask[row]] = 0

    crowds = _clip(geometry.boxes(instances.crowd_boxes), geometry)
    areas = (crowds[:, 2] - crowds[:, 0]) * (crowds[:, 3] - crowds[:, 1])
    by_area = np.argsort(-areas, kind="stable")[: int((areas > 0).sum())]
    left_out["crowds beyond max_crowds"] += max(len(by_area) - max_crowds, 0)
    by_area = by_area[:max_crowds]
    batch.crowd_boxes[row] = 0
    batch.crowd_boxes[row, : len(by_area)] = crowds[by_area]
    return left_out


def _output_boxes(instances: Instances, geometry: Geometry) -> np.ndarray:
    """Boxes in the output image; where the crop cuts one, that of the visible part of its segmentation. [n, 4]"""
    whole = geometry.boxes(instances.boxes)
    boxes = _clip(whole, geometry)
    if not geometry.is_cropped:
        return boxes
    is_cut = (np.abs(whole - boxes) > 1e-3).any(axis=1)
    is_left = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    for instance in np.flatnonzero(is_cut & is_left):
        segmentation = instances.segmentations[instance]
        if segmentation is not None:
            visible = visible_box(segmentation, geometry)
            boxes[instance] = 0 if visible is None else visible
    return boxes


def _clip(boxes: np.ndarray, geometry: Geometry) -> np.ndarray:
    height, width = geometry.output_size
    return np.clip(boxes, 0, [width, height, width, height])
