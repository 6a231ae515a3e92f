"""The parsers of files that users bring, each with random contents for it and the errors that it may raise."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fuzz.values import damaged, json_files, yaml_files

IMAGE_SIZE = (40, 50)  # (h, w)


@dataclasses.dataclass(frozen=True)
class Parser:
    """A parser under test.

    Attributes:
        contents: of files.
        parse: reads a content, in an empty folder; the errors of the product that it may raise are caught in it.
    """

    contents: Callable[[], st.SearchStrategy[bytes]]
    parse: Callable[[bytes, Path], None]


def compressed_counts() -> str:
    """Return the text of a run-length code of the images' size."""
    mask = np.zeros(IMAGE_SIZE, np.uint8, order="F")
    mask[10:20, 10:20] = 1
    return str(coco_mask.encode(mask)["counts"].decode())


def dataset() -> dict[str, Any]:
    """Return a small dataset with all kinds of segmentations."""
    square = [10, 10, 20, 10, 20, 20, 10, 20]
    common = {"category_id": 3, "bbox": [10, 10, 10, 10], "area": 100, "iscrowd": 0}
    rle = {"size": [40, 50], "counts": [410, 10, 30, 10, 1540]}
    compressed = {"size": [40, 50], "counts": compressed_counts()}
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 50} for n in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "segmentation": [square, square], **common},
            {"id": 2, "image_id": 2, "segmentation": rle, **common},
            {"id": 3, "image_id": 2, "segmentation": compressed, **common, "ignore": 1},
        ],
        "categories": [{"id": 3, "name": "three"}, {"id": 7, "name": "seven"}],
    }


def parse_annotations(content: bytes, folder: Path) -> None:
    """Open, check, rasterise, score and repair."""
    from mrcnn_data import CocoDataset, DatasetError, check_dataset, find_split, instance_masks, scoring_summary
    from mrcnn_data.checks.fixing import write_fixed

    for name in ("annotations", "train"):
        (folder / name).mkdir(exist_ok=True)
    for number in (1, 2):
        cv2.imwrite(str(folder / "train" / f"{number}.png"), np.full((*IMAGE_SIZE, 3), 90, np.uint8))
    (folder / "annotations" / "instances_train.json").write_bytes(content)
    try:
        opened = CocoDataset.from_root(folder, "train", allow_errors=True)
        check_dataset(opened, image_files=False)
        for index in range(min(len(opened), 3)):
            opened.instances(index)
            if np.prod(opened.image_sizes[index], dtype=float) <= 1e7:  # pixels: a bitmap for each object
                instance_masks(opened, index)
        scoring_summary(opened)
    except DatasetError:
        pass
    try:
        write_fixed(find_split(folder, "train"), folder / "fixed.json", force=True)
        CocoDataset.open(folder / "fixed.json", folder / "train", allow_errors=True)
    except DatasetError:
        pass


def image_files() -> st.SearchStrategy[bytes]:
    """Image files of every format, damaged."""
    return st.one_of(damaged(st.sampled_from(_images())), st.binary(max_size=100))


@cache
def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (*IMAGE_SIZE, 3), np.uint8)
    files = [cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".webp", ".tif")]
    files += [cv2.imencode(suffix, pixels[..., 0].astype(np.uint16) * 200)[1].tobytes() for suffix in (".png", ".tif")]
    files += [cv2.imencode(".tif", pixels[..., 0].astype(np.float32))[1].tobytes()]
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHII", 8, 1, 0x112, 3, 1, 6 << 16) + bytes(4)
    files.append(files[1][:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + files[1][2:])
    return files


def parse_image(content: bytes, folder: Path) -> None:
    """Read the header and all that is asked of it, then the pixels."""
    from mrcnn_data import DatasetError, load_image
    from mrcnn_data.images import read_header

    path = folder / "image"
    path.write_bytes(content)
    header = read_header(path)
    for size in (None, IMAGE_SIZE, header.size if header else None):
        with contextlib.suppress(DatasetError):
            load_image(path, expected_size=size)


def results() -> list[dict[str, Any]]:
    """Return a results list with boxes and masks of both kinds."""
    rle = {"size": [40, 50], "counts": [410, 10, 30, 10, 1540]}
    return [
        {"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [10, 10, 10, 10], "segmentation": rle},
        {"image_id": 2, "category_id": 7, "score": 1, "bbox": [1, 2, 3.5, 4],
         "segmentation": {"size": [40, 50], "counts": compressed_counts()}},
    ]  # fmt: skip


def parse_results(content: bytes, folder: Path) -> None:
    """Score a results file, with boxes and masks."""
    from mrcnn_data import DatasetError, read_json
    from mrcnn_eval import CocoEvaluator, GroundTruthError, ResultsError

    (folder / "truth.json").write_text(json.dumps(dataset()))
    (folder / "results.json").write_bytes(content)
    try:
        found = read_json(folder / "results.json")
        if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
            evaluator = CocoEvaluator(folder / "truth.json")
            evaluator.add_results(found)
            evaluator.evaluate()
    except (DatasetError, GroundTruthError, ResultsError):
        pass


def card() -> dict[str, Any]:
    """Return a `model.json`."""
    from mrcnn_model import ModelConfig

    entry = {
        "class_names": ["a", "b"], "category_ids": [3, 7], "short_edge": 800, "max_size": 1333,
        "buckets": [[800, 1344], [1344, 800]], "data_root": "data", "train_split": "train", "val_split": None,
        "annotations": None, "images": None,
    }  # fmt: skip
    return {"format": 2, "model": dataclasses.asdict(ModelConfig(num_classes=3)), "card": entry}


def parse_card(content: bytes, folder: Path) -> None:
    """Read `model.json`."""
    from mrcnn_model import CheckpointError, read_card

    (folder / "model.json").write_bytes(content)
    with contextlib.suppress(CheckpointError):
        read_card(folder)


def parse_config(content: bytes, folder: Path) -> None:
    """Read the `config.yaml` of a run, as `resume=RUN` does."""
    from mrcnn_train.config.composition import is_saved_config, read_config, typed_config
    from mrcnn_train.config.resolving import resolve
    from mrcnn_train.errors import ConfigError

    path = folder / "config.yaml"
    path.write_bytes(content)
    is_saved_config(path)
    with contextlib.suppress(ConfigError):
        resolve(typed_config(read_config(path)))


def config() -> dict[str, Any]:
    """Return the config of a run, as plain values."""
    import yaml

    from mrcnn_train.config.composition import config_text
    from mrcnn_train.config.options import RunConfig

    content: dict[str, Any] = yaml.safe_load(config_text(RunConfig()))
    return content


PARSERS = {
    "annotations": Parser(lambda: json_files(dataset()), parse_annotations),
    "image": Parser(image_files, parse_image),
    "results": Parser(lambda: json_files(results()), parse_results),
    "model_json": Parser(lambda: json_files(card()), parse_card),
    "config_yaml": Parser(lambda: yaml_files(config()), parse_config),
}
