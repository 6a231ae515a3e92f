"""What the tests share: ground truth and detections made by hand, and the scorer they are held against."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_data import default_buckets

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the tests are of the CPU, also on a machine with GPUs


class Scene:
    """Builds a COCO dict and the results list that belongs to it."""

    def __init__(self, *, images: int = 1, size: tuple[int, int] = (100, 100), categories: tuple[int, ...] = (1,)):
        self.size = size
        self.annotations: dict[str, Any] = {
            "info": {},
            "images": [
                {"id": n, "height": size[0], "width": size[1], "file_name": f"{n}.png"} for n in range(1, images + 1)
            ],
            "categories": [{"id": n, "name": f"class {n}"} for n in categories],
            "annotations": [],
        }
        self.results: list[dict[str, Any]] = []

    @staticmethod
    def rle(mask):
        """Compressed RLE of a bitmap [h, w]."""
        rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}

    @staticmethod
    def polygon(box):
        x, y, w, h = box
        return [[x, y, x + w, y, x + w, y + h, x, y + h]]

    def box_rle(self, box):
        mask = np.zeros(self.size, np.uint8)
        x, y, w, h = (round(value) for value in box)
        mask[y : y + h, x : x + w] = 1
        return self.rle(mask)

    def truth(self, box, *, image=1, category=1, **fields):
        """Add an object; a field given as None is left out of the annotation."""
        annotation = {
            "id": len(self.annotations["annotations"]) + 1,
            "image_id": image,
            "category_id": category,
            "bbox": list(box),
            "area": box[2] * box[3],
            "iscrowd": 0,
            "segmentation": self.polygon(box),
        } | fields
        self.annotations["annotations"].append({k: v for k, v in annotation.items() if v is not None})
        return self

    def detection(self, box, *, score=0.9, image=1, category=1, segmentation=None):
        self.results.append(
            {
                "image_id": image,
                "category_id": category,
                "bbox": list(box),
                "score": score,
                "segmentation": segmentation or self.box_rle(box),
            }
        )
        return self


@pytest.fixture
def scene():
    return Scene


@pytest.fixture
def reference_stats():
    return pycocotools_stats


def pycocotools_stats(annotations, results, iou_type, *, max_dets=100, iou_thresholds=None, area_ranges=None):
    """The numbers by pycocotools itself, through its own loadRes: its twelve, or those of other parameters.

    Results must not be empty, and annotations must be free of what pycocotools scores wrongly (id 0, duplicates).
    """
    is_standard = max_dets == 100 and iou_thresholds is None and area_ranges is None
    caps = [1, 10, 100] if is_standard else sorted({cap for cap in (1, 10) if cap < max_dets} | {max_dets})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        keys = ("image_id", "category_id", "score", "bbox" if iou_type == "bbox" else "segmentation")
        detections = truth.loadRes([{key: entry[key] for key in keys} for entry in results])
        evaluation = COCOeval(truth, detections, iou_type)
        evaluation.params.maxDets = caps
        if iou_thresholds is not None:
            evaluation.params.iouThrs = np.array(iou_thresholds)
        if area_ranges is not None:
            evaluation.params.areaRng = [[0, 1e10], *map(list, area_ranges)]
            evaluation.params.areaRngLbl = [str(number) for number in range(len(area_ranges) + 1)]
        evaluation.evaluate()
        evaluation.accumulate()
        if is_standard:
            evaluation.summarize()
            return list(evaluation.stats)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    thresholds, num_areas = evaluation.params.iouThrs, precision.shape[3]

    def mean(values):
        return values[values > -1].mean() if (values > -1).any() else -1.0

    singles = [np.isclose(thresholds, iou) for iou in (0.5, 0.75)]
    return [
        mean(precision[:, :, :, 0, -1]),
        *(mean(precision[single][:, :, :, 0, -1]) for single in singles if single.any()),
        *(mean(precision[:, :, :, area, -1]) for area in range(1, num_areas)),
        *(mean(recall[:, :, 0, cap]) for cap in range(len(caps))),
        *(mean(recall[:, :, area, -1]) for area in range(1, num_areas)),
    ]


@pytest.fixture
def with_orientation():
    return oriented


def oriented(jpeg, orientation):
    """The bytes of a JPEG with an EXIF block (TIFF, big-endian, one tag) behind its first marker."""
    tiff = (
        b"MM\0*" + (8).to_bytes(4, "big") + b"\0\1" + b"\x01\x12\0\3\0\0\0\1" + bytes([0, orientation, 0, 0]) + bytes(4)
    )
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real data beside the repository, or a skip."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data" if len(Path(__file__).parents) > 4 else Path("/")
    folder = Path(os.environ.get("MRCNN_SHARED_DATA", default))
    if not (folder / "eval_cocoapi_val2014_100").is_dir():
        pytest.skip(f"real data is absent: no {folder}/eval_cocoapi_val2014_100 (set MRCNN_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def model():
    """A tiny model with random weights."""
    import keras

    from mrcnn_model import ModelConfig, build_model

    keras.utils.set_random_seed(0)
    config = ModelConfig(
        num_classes=3,
        backbone="resnet18",
        norm="gn",
        gn_groups=4,
        backbone_width=8,
        freeze_at=0,
        fpn_channels=16,
        rpn_channels=16,
        detect_proposals=20,
        box_head_channels=32,
        mask_head_convs=1,
        mask_head_channels=16,
        detections_per_image=15,
    )
    return build_model(config)


@pytest.fixture
def root(scene, tmp_path):
    """A data set in the layout ROOT/annotations, ROOT/val."""
    example = scene(images=3, categories=(8, 3)).truth([10, 20, 30, 40], category=3)
    (tmp_path / "data/annotations").mkdir(parents=True)
    (tmp_path / "data/val").mkdir()
    (tmp_path / "data/annotations/instances_val.json").write_text(json.dumps(example.annotations))
    for number in (1, 2, 3):
        noise = np.random.default_rng(number).integers(0, 256, (100, 100, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"data/val/{number}.png"), noise)
    return tmp_path / "data"


@pytest.fixture
def checkpoint(model, root):
    """Makes the checkpoint of a run whose card has the given fields."""

    from mrcnn_model import ModelCard, save_model

    of_model = ModelCard(
        class_names=["class 3", "class 8"],
        category_ids=[3, 8],
        short_edge=64,
        max_size=64,
        buckets=[list(bucket) for bucket in default_buckets(64, 64)],
    )

    def make(**fields):
        directory = root.parent / "run"
        card = dataclasses.replace(of_model, **({"data_root": str(root), "val_split": "val"} | fields))
        save_model(directory / "checkpoints/step-00000001", model, card)
        return directory

    return make
