"""Draw a sheet of images with their annotations: as in the file, and as training sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.augmentation.options import Augmentation
from mrcnn_data.drawing.objects import (
    GREY,
    MAX_EDGE,
    Instance,
    class_color,
    draw_instances,
    resize_image,
    spread,
    stack,
    titled,
    told_apart,
    write_png,
)
from mrcnn_data.errors import DatasetError
from mrcnn_data.images.geometry import resize_only
from mrcnn_data.loading.batch import Batch, BufferPool, new_batch
from mrcnn_data.loading.seeds import sample_seeds
from mrcnn_data.loading.train_sample import Photo, draw_pasted, fill_train_row
from mrcnn_data.masks.rasterising import crop_mask, paste_masks


def draw_contact_sheet(
    path: Path,
    dataset: CocoDataset,
    indices: Sequence[int],
    *,
    augmentation: Augmentation,
    short_edges: Sequence[int] | None,
    max_size: int | None,
    variants: int = 2,
    seed: int = 0,
    on_error: str = "raise",
) -> dict[int, str]:
    """Write a PNG: a row for each image, as annotated on the left, then `variants` training samples of it.

    Masks on the left are those of the file; masks of the samples are the 112 x 112 crops that training gets.

    Args:
        path: of the PNG.
        dataset: to draw images of.
        indices: numbers of the images, at least one.
        augmentation, seed: as of `TrainLoader`; sample number e is that of epoch e.
        short_edges, max_size: as of `TrainLoader`; None: those of the image, so that it is not resized.
        variants: training samples of each image.
        on_error: "raise", or "skip": images that cannot be read are left out, unless all are.

    Returns:
        What is wrong with the images that could not be read, by their numbers.

    Raises:
        DatasetError: an image cannot be read; with "skip", none of `indices` can.
        OptionError: an augmentation that cannot work.
        OutputError: the file exists and was not written by this product, or the disk refuses.
    """
    augmentation.check()
    paste_from = np.flatnonzero(dataset.num_objects())
    photos = _Photos(dataset, on_error=on_error)
    rows = []
    for index in indices:
        photo = photos.read(index)
        if photo is None:
            continue
        pictures = [_annotated(dataset, photo)]
        for epoch in range(variants):
            batch = _sample(
                photos,
                photo,
                sample_seeds(seed, np.array([epoch]), np.array([index])),
                paste_from,
                augmentation=augmentation,
                short_edges=short_edges or [min(photo.pixels.shape[:2])],
                max_size=max_size or max(photo.pixels.shape[:2]),
            )
            pictures.append(_trained(dataset, batch, title=f"training sample {epoch + 1}"))
        rows.append(stack(pictures, axis=1))
    if not rows:
        raise DatasetError("; ".join(photos.errors.values()))
    write_png(path, stack(rows, axis=0))
    return photos.errors


class _Photos:
    """Reads images, and keeps what is wrong with those that cannot be read."""

    def __init__(self, dataset: CocoDataset, *, on_error: str) -> None:
        self.dataset = dataset
        self.errors: dict[int, str] = {}  # by number of the image
        self._on_error = on_error

    def read(self, index: int) -> Photo | None:
        try:
            return Photo(index, self.dataset.read_image(index))
        except DatasetError as error:
            if self._on_error == "raise":
                raise
            self.errors[index] = str(error)
            return None


def choose_images(dataset: CocoDataset, count: int) -> list[int]:
    """Choose images with objects, evenly spread; if no image has an object, choose from all."""
    with_objects = np.flatnonzero(dataset.num_objects()).tolist()
    return spread(with_objects or range(len(dataset)), count=count)


def _annotated(dataset: CocoDataset, photo: Photo) -> np.ndarray:
    index, image = photo
    picture, scale = _reduced(image)
    geometry = resize_only(image.shape[:2], picture.shape[:2])  # type: ignore[arg-type]
    whole = np.array([0, 0, picture.shape[1], picture.shape[0]], np.float64)
    instances = dataset.instances(index)
    drawn = [_crowd(box, scale=scale) for box in instances.crowd_boxes]
    for box, number, segmentation in zip(instances.boxes, instances.classes, instances.segmentations, strict=True):
        mask = None
        if segmentation is not None:
            mask = np.zeros(picture.shape[:2], np.uint8)
            crop_mask(segmentation, whole, geometry, mask)
        drawn.append(_object(dataset, box, int(number), mask, scale=scale))
    height, width = image.shape[:2]
    title = f"{_name(dataset, index)}: {width} x {height}, {len(instances.boxes)} objects{_of_what(dataset)}"
    return titled(_drawn(dataset, picture, drawn), title)


def _drawn(dataset: CocoDataset, picture: np.ndarray, objects: list[Instance]) -> np.ndarray:
    return draw_instances(picture, told_apart(objects) if dataset.num_classes == 2 else objects)


def _sample(
    photos: _Photos,
    photo: Photo,
    seeds: np.ndarray,
    paste_from: np.ndarray,
    *,
    augmentation: Augmentation,
    short_edges: Sequence[int],
    max_size: int,
) -> Batch:
    """Make one training sample, in a square bucket, which holds it however it is turned."""
    edge = augmentation.crop_size or max_size
    dataset = photos.dataset
    most = int(np.sort(dataset.num_objects())[-2:].sum())  # the objects of the image and those pasted over it
    batch = new_batch(BufferPool(), num_images=1, bucket=(edge, edge), num_gt=most, num_crowds=_MAX_CROWDS)
    batch.sample_seeds[...] = seeds
    pasted = draw_pasted(augmentation, seeds[0], paste_from)
    fill_train_row(
        batch,
        0,
        dataset,
        photo._replace(pixels=photo.pixels.copy()),  # it may be changed, and is used for the next sample
        pasted=None if pasted is None else photos.read(pasted),
        augmentation=augmentation,
        short_edges=short_edges,
        max_size=max_size,
    )
    return batch


_MAX_CROWDS = 20  # more would hide the picture


def _trained(dataset: CocoDataset, batch: Batch, *, title: str) -> np.ndarray:
    height, width = batch.image_sizes[0].tolist()
    picture, scale = _reduced(batch.images[0, :height, :width])
    present = batch.gt_classes[0] > 0
    boxes, classes = batch.gt_boxes[0, present], batch.gt_classes[0, present].tolist()
    masks = paste_masks(batch.gt_masks[0, present], boxes * scale, height=picture.shape[0], width=picture.shape[1])
    crowds = batch.crowd_boxes[0]
    drawn = [_crowd(box, scale=scale) for box in crowds[(crowds[:, 2:] > crowds[:, :2]).all(axis=1)]]
    for box, number, mask, has_mask in zip(boxes, classes, masks, batch.gt_has_mask[0, present], strict=True):
        drawn.append(_object(dataset, box, number, mask if has_mask else None, scale=scale))
    title = f"{title}: {width} x {height}, {len(boxes)} objects{_of_what(dataset)}"
    return titled(_drawn(dataset, picture, drawn), title)


def _reduced(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Reduce an image that is larger than a picture, before masks of its size are made; return the factor too."""
    scale = min(1.0, MAX_EDGE / max(image.shape[:2]))
    return resize_image(image, scale), scale


def _object(dataset: CocoDataset, box: np.ndarray, number: int, mask: np.ndarray | None, *, scale: float) -> Instance:
    x1, y1, x2, y2 = (float(value) * scale for value in box)
    name = "" if dataset.num_classes == 2 else dataset.class_names[number - 1]
    return Instance((x1, y1, x2, y2), mask, name, class_color(number - 1))


def _crowd(box: np.ndarray, *, scale: float) -> Instance:
    x1, y1, x2, y2 = (float(value) * scale for value in box)
    return Instance((x1, y1, x2, y2), None, "crowd", GREY)


def _name(dataset: CocoDataset, index: int) -> str:
    """Return the file name; if there are several splits, after the name of the split."""
    split = dataset.source_of(index).annotation_path.stem.removeprefix("instances_")
    return f"{split}: " * (len(dataset.sources) > 1) + dataset.file_names[index]


def _of_what(dataset: CocoDataset) -> str:
    """Return the class for the title if there is only one: labels on hundreds of nuclei would hide them."""
    return f" ({dataset.class_names[0]})" if dataset.num_classes == 2 else ""
