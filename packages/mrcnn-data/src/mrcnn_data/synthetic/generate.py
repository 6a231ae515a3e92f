"""Scenes to a dataset folder in COCO's layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mrcnn_data.errors import DatasetError
from mrcnn_data.synthetic.outlines import CLASS_NAMES
from mrcnn_data.synthetic.scene import draw_scene
from mrcnn_data.synthetic.tracing import encode_compressed, encode_uncompressed, has_hole, trace_polygons

DESCRIPTION = "Shapes drawn by mrcnn_data.synthetic"
MIN_IMAGE_SIZE = 64  # room for a few objects of the smallest size
RLE_PROBABILITY = 0.1  # of objects that a polygon could describe; those with a hole are RLE always
_SPLITS = ("train", "val")  # a split's position is part of its seeds


def generate_shapes(out: str | os.PathLike[str], *, train: int, val: int, size: int, seed: int) -> None:
    """Write OUT/annotations/instances_{train,val}.json and the images in OUT/train and OUT/val.

    The same arguments give the same files; image number i of a split is the same however many follow it.

    Args:
        train, val: number of images.
        size: edge of the square images, pixels.
        seed: not negative.
    Raises:
        DatasetError: the folder holds annotations that this did not write, or cannot be written.
        ValueError: an argument out of range.
    """
    if size < MIN_IMAGE_SIZE:
        raise ValueError(f"size={size} must be at least {MIN_IMAGE_SIZE}")
    for name, value in (("train", train), ("val", val)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if seed < 0:
        raise ValueError(f"seed={seed} must not be negative")
    root = Path(out)
    try:
        for split in _SPLITS:
            _refuse_foreign(root / "annotations" / f"instances_{split}.json")
        for number, (split, count) in enumerate(zip(_SPLITS, (train, val), strict=True)):
            _write_split(root, split, count=count, size=size, seed=(seed, number))
    except OSError as error:
        raise DatasetError(f"{error.filename or root}: cannot write the dataset: {error.strerror}") from None


def _write_split(root: Path, split: str, *, count: int, size: int, seed: tuple[int, int]) -> None:
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([*seed, size, index])
        scene = draw_scene(rng, size)
        file_name = f"{index + 1:06d}.png"
        path = root / split / file_name
        if not cv2.imwrite(str(path), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)):
            raise DatasetError(f"{path}: cannot write the image file")
        images.append({"id": index + 1, "file_name": file_name, "height": size, "width": size})
        for placed in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": placed.class_index + 1,
                    **_annotate(rng, placed.visible_mask),
                }
            )
    content = {
        "info": {"description": DESCRIPTION, "split": split, "size": size, "seed": seed[0]},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(CLASS_NAMES, start=1)],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _annotate(rng: np.random.Generator, mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    as_rle, is_compressed = rng.random() < RLE_PROBABILITY, rng.random() < 0.5
    segmentation: Any
    if as_rle or has_hole(mask):
        segmentation = encode_compressed(mask) if is_compressed else encode_uncompressed(mask)
    else:
        segmentation = trace_polygons(mask)
    return {
        "segmentation": segmentation,
        "area": int(mask.sum()),
        "bbox": [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
        "iscrowd": 0,
    }


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        return
    try:
        description = json.loads(path.read_bytes())["info"]["description"]
    except (ValueError, KeyError, TypeError):
        description = None
    if description != DESCRIPTION:
        raise DatasetError(f"{path}: exists and was not written by this generator; choose another folder")
