"""Write drawn scenes as a dataset folder in COCO's layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_data.drawing.objects import write_png
from mrcnn_data.errors import OptionError
from mrcnn_data.masks.tracing import coco_box, encode_compressed, encode_uncompressed, has_hole, trace_polygons
from mrcnn_data.outputs import OutputError, check_outputs, write_output
from mrcnn_data.synthetic.outlines import CLASS_NAMES
from mrcnn_data.synthetic.scene import draw_scene
from mrcnn_data.text import visible

DESCRIPTION = "Shapes drawn by mrcnn_data.synthetic"
MIN_IMAGE_SIZE = 64  # room for a few objects of the smallest size
RLE_PROBABILITY = 0.1  # for objects that a polygon could describe; objects with a hole are always RLE


def generate_shapes(out: str | os.PathLike[str], *, train: int, val: int, size: int, seed: int) -> None:
    """Write OUT/annotations/instances_{train,val}.json and the images in OUT/train and OUT/val.

    The same arguments give the same files; image number i of a split does not depend on how many follow it.

    Args:
        train, val: number of images.
        size: edge of the square images, pixels.
        seed: not negative.
    Raises:
        OutputError: a file to be written exists and was not written by this product, or the disk refuses.
        OptionError: an argument out of range.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("size", size, MIN_IMAGE_SIZE), ("seed", seed, 0)):
        if value < least:
            raise OptionError(f"{name}={value} must be at least {least}")
    root, counts = Path(out), {"train": train, "val": val}
    check_outputs(path for split, count in counts.items() for path in _files_of(root, split, count))
    try:
        for split in counts:
            (root / split).mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{visible(error.filename or root)}: cannot make the folder: {error.strerror}") from error
    for number, (split, count) in enumerate(counts.items()):
        _write_split(root, split, count=count, size=size, seed=(seed, number))


def _files_of(root: Path, split: str, count: int) -> list[Path]:
    """List the annotation file of a split, then its images."""
    images = [root / split / f"{number:06d}.png" for number in range(1, count + 1)]
    return [root / "annotations" / f"instances_{split}.json", *images]


def _write_split(root: Path, split: str, *, count: int, size: int, seed: tuple[int, int]) -> None:
    annotation_path, *image_paths = _files_of(root, split, count)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, path in enumerate(image_paths):
        rng = np.random.default_rng([*seed, size, index])
        scene = draw_scene(rng, size)
        write_png(path, scene.image)
        images.append({"id": index + 1, "file_name": path.name, "height": size, "width": size})
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
    write_output(annotation_path, json.dumps(content).encode())


def _annotate(rng: np.random.Generator, mask: np.ndarray) -> dict[str, Any]:
    as_rle, is_compressed = rng.random() < RLE_PROBABILITY, rng.random() < 0.5
    segmentation: Any
    if as_rle or has_hole(mask):
        segmentation = encode_compressed(mask) if is_compressed else encode_uncompressed(mask)
    else:
        segmentation = trace_polygons(mask)
    return {"segmentation": segmentation, "area": int(mask.sum()), "bbox": coco_box(mask), "iscrowd": 0}
