"""One file in the style of each exporter: which objects and pixels are read, and what the check says."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, check_dataset, find_split, instance_masks
from mrcnn_data.checks.fixing import write_fixed

CORPUS = Path(__file__).parent / "corpus"


# By exporter: its image files, the classes, for each image the objects (box, pixels of the mask), and the findings.
EXPORTERS = {
    "cvat": (
        ["a.jpg", "b.jpg"],
        ("dog",),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], []],
        ["note: iscrowd (1)", "warning: data set with many crowds (1)"],
    ),
    "fiftyone": (
        ["a.jpg", "b.jpg"],
        ("dog",),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], [([20.0, 20.0, 60.0, 60.0], 0)]],
        ["error: file_name that leads out of the image folder (2)", "note: segmentation missing (1)"],
    ),
    "kili": (
        ["data/a.jpg", "data/b.jpg"],
        ("dog",),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], [([20.0, 20.0, 60.0, 60.0], 1600)]],
        ["repaired: flat polygon (1)"],
    ),
    "label_studio": (
        ["90fbb0c7-a.jpg", "cb0618f6-b.jpg"],
        ("dog",),
        [[([20.25, 20.25, 60.25, 60.25], 1600)], [([20.0, 20.0, 60.0, 60.0], 0)]],
        [
            "repaired: file_name with backslashes (2)",
            "error: file_name that leads out of the image folder (1)",
            "error: image file missing (1)",
            "repaired: segmentation empty (1)",
        ],
    ),
    "labelbox": (
        ["a.jpg", "b.jpg"],
        ("dog",),
        [[([20.0, 36.0, 60.0, 76.0], 1600)], [([20.0, 20.0, 60.0, 60.0], 1600)]],
        ["dropped: polygon part with fewer than 6 numbers (1)"],
    ),
    "labelconvert": (
        ["000000000001.jpg", "000000000002.jpg"],
        ("dog",),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], [([20.0, 20.0, 60.0, 60.0], 0)]],
        ["dropped: polygon part with fewer than 6 numbers (1)", "repaired: no polygon part is usable (1)"],
    ),
    "labelme2coco": (
        ["sub/a.jpg", "b.jpg"],
        ("cat", "line"),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], [([10.0, 10.0, 50.0, 50.0], 0)]],
        [
            "repaired: area is not a positive number (1)",
            "dropped: box of zero or negative size (1)",
            "dropped: polygon part without area (1)",
            "repaired: no polygon part is usable (1)",
        ],
    ),
    "makesense": (
        ["a.jpg", "b.jpg"],
        ("dog",),
        [[([20.25, 20.25, 60.25, 60.25], 1600)], [([20.25, 20.25, 60.25, 60.25], 1600)]],
        [],
    ),
    "roboflow": (
        ["a_jpg.rf.2OQljvp2.jpg", "b_jpg.rf.AiYD31NU.jpg"],
        ("pets", "dog"),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], [([20.0, 20.0, 60.0, 60.0], 0)]],
        [
            "repaired: number written as text (2)",
            "repaired: segmentation empty (1)",
            "note: category without an object (1)",
        ],
    ),
    "superannotate": (
        ["a.jpg", "b.jpg"],
        ("dog", "dog"),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], [([20.0, 20.0, 90.0, 60.0], 2000)]],
        ["repaired: white space around a category's name (1)", "note: category name that occurs twice (2)"],
    ),
    "unity": (
        ["camera_a.png", "camera_b.png"],
        ("crate",),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], [([20.0, 20.0, 60.0, 60.0], 1600)]],
        ["error: annotation id that occurs twice (1)"],
    ),
    "v7": (
        ["a.jpg", "b.jpg"],
        ("dog",),
        [[([20.0, 20.0, 61.0, 61.0], 1600)], []],
        ["repaired: area is not a positive number (1)", "note: iscrowd (1)", "warning: data set with many crowds (1)"],
    ),
    "via": (
        ["a.jpg", "b.jpg"],
        ("dog",),
        [[([20.0, 20.0, 60.0, 60.0], 1600)], []],
        [
            "error: annotation entry that cannot be read (1)",
            "repaired: image_id of another type than the image's id (1)",
            "note: area missing (1)",
            "repaired: image without width or height (2)",
            "note: image without annotations (1)",
            "repaired: flat polygon (1)",
        ],
    ),
    "x_anylabeling": (
        ["a.jpg", "b.jpg"],
        ("_background_", "犬"),
        [[([20.25, 20.25, 60.25, 60.25], 1600)], []],
        ["note: ignore (1)", "note: category without an object (1)"],
    ),
}


def opened(tmp_path, exporter, files):
    for number, name in enumerate(files):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (96, 128, 3), np.uint8)
        cv2.imwrite(str(path), noise)
    (tmp_path / "annotations").mkdir(exist_ok=True)
    shutil.copy(CORPUS / f"{exporter}.json", tmp_path / "annotations" / "instances_train.json")
    return CocoDataset.from_root(tmp_path, "train", allow_errors=True)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_is_read(tmp_path, exporter):
    files, class_names, objects, findings = EXPORTERS[exporter]
    dataset = opened(tmp_path, exporter, files)
    assert dataset.class_names == class_names
    for index, expected in enumerate(objects):
        found = zip(dataset.instances(index).boxes.tolist(), instance_masks(dataset, index), strict=True)
        assert [(box, int(mask.sum())) for box, mask in found] == expected
    report = check_dataset(dataset)
    assert [f"{finding.severity}: {finding.kind} ({finding.count})" for finding in report.findings] == findings


def test_every_file_is_tested():
    assert sorted(EXPORTERS) == sorted(path.stem for path in CORPUS.glob("*"))


@pytest.mark.parametrize(
    ("exporter", "words"),
    [
        ("via", "got `null` - at `category_id` in annotations[1]: `mrcnn-data check ROOT SPLIT --one-class NAME"),
        (
            "label_studio",
            "it is there in another folder (images/1/90fbb0c7-a.jpg as 90fbb0c7-a.jpg): `mrcnn-data check",
        ),
        ("fiftyone", "are there in another folder (/home/me/fiftyone/a.jpg as a.jpg): `mrcnn-data check"),
        ("unity", "annotation id 11 occurs twice"),
    ],
)
def test_errors_say_what_to_do(tmp_path, exporter, words):
    dataset = opened(tmp_path, exporter, EXPORTERS[exporter][0])
    assert any(words in finding.message for finding in dataset.report.by_severity("error"))


@pytest.mark.parametrize("exporter", sorted(set(EXPORTERS) - {"via"}))
def test_a_fix_makes_a_clean_file(tmp_path, exporter):
    dataset = opened(tmp_path, exporter, EXPORTERS[exporter][0])
    options = {"force": True, "crowds_are_objects": exporter in ("cvat", "v7")}
    write_fixed(find_split(tmp_path, "train"), tmp_path / "fixed.json", **options)
    fixed = CocoDataset.open(tmp_path / "fixed.json", tmp_path / "train")
    assert fixed.num_objects().sum() == dataset.num_objects().sum() + options["crowds_are_objects"]
    assert not fixed.report.by_severity("error", "dropped", "repaired")
