"""Write one training image, augmented, into its row of a batch."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.augmentation.colour import jitter_colour
from mrcnn_data.augmentation.copy_paste import paste_objects, shifted_into
from mrcnn_data.augmentation.options import Augmentation, draw_geometry
from mrcnn_data.augmentation.placement import PlacedObjects, clip_boxes, place
from mrcnn_data.images.geometry import Geometry
from mrcnn_data.loading.batch import Batch
from mrcnn_data.loading.seeds import COLOUR_STREAM, PASTE_STREAM, PASTED_COLOUR_STREAM, generator, quarter_turns
from mrcnn_data.masks.rasterising import crop_mask


class Photo(NamedTuple):
    """An image of the dataset: its number, and its pixels as read, which may be changed."""

    number: int
    pixels: np.ndarray


def draw_pasted(augmentation: Augmentation, seed: np.ndarray, candidates: np.ndarray) -> int | None:
    """Choose at random whose objects are pasted over a sample: one of `candidates` int64 [n]; None for no pasting."""
    if not augmentation.copy_paste or not candidates.size:
        return None
    rng = generator(seed, PASTE_STREAM, 0)
    return int(rng.choice(candidates)) if rng.random() < augmentation.copy_paste else None


def fill_train_row(
    batch: Batch,
    row: int,
    dataset: CocoDataset,
    photo: Photo,
    *,
    pasted: Photo | None = None,
    augmentation: Augmentation,
    short_edges: Sequence[int],
    max_size: int,
) -> Counter[str]:
    """Augment one image and write its row, padding included; `batch.sample_seeds[row]` determines the random choices.

    Args:
        batch: all fields of the row are written, except its seed.
        row: of the batch.
        dataset: of the images.
        photo: the image.
        pasted: the image that `draw_pasted` chose.
        augmentation, short_edges, max_size: as of `TrainLoader`.
    Returns:
        The number of objects and crowds that were left out, by reason.
    """
    seed = batch.sample_seeds[row]
    rng = generator(seed)
    turns = int(quarter_turns(seed[None], augmentation.rotate90)[0])  # not from `rng`: the sampler needs it too
    draw = functools.partial(draw_geometry, augmentation, short_edges=short_edges, max_size=max_size)
    geometry = draw(rng, source_size=_size(photo.pixels), turns=turns)
    if augmentation.changes_colour:
        jitter_colour(photo.pixels, augmentation, generator(seed, COLOUR_STREAM))
    write_image(batch, row, photo.pixels, geometry)
    batch.image_ids[row] = dataset.image_ids[photo.number]
    instances = dataset.instances(photo.number)
    objects = place(instances, geometry)
    left_out: Counter[str] = Counter()
    if not geometry.is_cropped:  # that a crop loses objects is intended
        left_out["objects thinner than a pixel after resizing"] += int((~objects.is_visible).sum())
    if pasted is not None:
        paste_rng = generator(seed, PASTE_STREAM)
        their_turns = int(paste_rng.integers(4)) if paste_rng.random() < augmentation.rotate90 else 0
        theirs = draw(paste_rng, source_size=_size(pasted.pixels), turns=their_turns)
        if augmentation.changes_colour:
            jitter_colour(pasted.pixels, augmentation, generator(seed, PASTED_COLOUR_STREAM))
        height, width = geometry.output_size
        objects = paste_objects(
            batch.images[row, :height, :width],
            objects,
            pixels=pasted.pixels,
            instances=dataset.instances(pasted.number),
            geometry=shifted_into(theirs, geometry.output_size, paste_rng),
            rng=paste_rng,
        )
    left_out += _write_objects(batch, row, objects, rng)
    left_out += _write_crowds(batch, row, clip_boxes(geometry.boxes(instances.crowd_boxes), geometry.reach))
    return left_out


def _size(pixels: np.ndarray) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]


def write_image(batch: Batch, row: int, image: np.ndarray, geometry: Geometry) -> None:
    """Write pixels, zero padding and sizes of a row."""
    height, width = geometry.output_size
    padded = batch.images[row]  # [H, W, 3]
    geometry.write_image(image, padded[:height, :width])
    padded[:height, width:] = 0
    padded[height:] = 0
    batch.image_sizes[row] = height, width
    batch.original_sizes[row] = image.shape[:2]


def _write_objects(batch: Batch, row: int, objects: PlacedObjects, rng: np.random.Generator) -> Counter[str]:
    left_out: Counter[str] = Counter()
    kept = np.flatnonzero(objects.is_visible)
    max_gt = batch.gt_boxes.shape[1]
    if len(kept) > max_gt:
        left_out["objects beyond max_gt"] += len(kept) - max_gt
        kept = np.sort(rng.choice(kept, max_gt, replace=False))  # the next epoch draws others
    batch.gt_boxes[row] = 0
    batch.gt_boxes[row, : len(kept)] = objects.boxes[kept]
    batch.gt_classes[row] = 0
    batch.gt_classes[row, : len(kept)] = objects.classes[kept]
    batch.gt_has_mask[row] = False
    batch.gt_masks[row, len(kept) :] = 0
    for slot, number in enumerate(kept.tolist()):
        segmentation = objects.segmentations[number]
        box, mask = batch.gt_boxes[row, slot], batch.gt_masks[row, slot]
        if segmentation is None:
            mask[...] = 0
        else:
            batch.gt_has_mask[row, slot] = crop_mask(segmentation, box, objects.geometries[number], mask)
            left_out["masks without a pixel inside their box"] += int(not batch.gt_has_mask[row, slot])
    return left_out


def _write_crowds(batch: Batch, row: int, crowds: np.ndarray) -> Counter[str]:
    """Write the largest of `crowds` [k, 4], clipped boxes in pixels of the output."""
    max_crowds = batch.crowd_boxes.shape[1]
    areas = (crowds[:, 2] - crowds[:, 0]) * (crowds[:, 3] - crowds[:, 1])
    by_area = np.argsort(-areas, kind="stable")[: int((areas > 0).sum())]
    left_out = Counter({"crowds beyond max_crowds": max(len(by_area) - max_crowds, 0)})
    by_area = by_area[:max_crowds]
    batch.crowd_boxes[row] = 0
    batch.crowd_boxes[row, : len(by_area)] = crowds[by_area]
    return left_out
