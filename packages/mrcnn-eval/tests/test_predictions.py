"""Pictures of a user's own: which are found, how they are read, what is written."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from mrcnn_data import DatasetError
from mrcnn_eval import CocoEvaluator
from mrcnn_eval.predictions import find_pictures, opened_pictures, prediction_table, write_predictions

CATEGORIES = [(7, "cat"), (3, "dog")]


@pytest.fixture
def folder(tmp_path):
    """b.jpg and a.png of 60 x 90 pixels, notes.txt, and an empty folder."""
    for name in ("b.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), np.full((60, 90, 3), 80, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    return tmp_path


def with_orientation(jpeg, orientation):
    """The bytes of a JPEG with an EXIF block (TIFF, big-endian, one tag) behind its first marker."""
    tiff = (
        b"MM\0*" + (8).to_bytes(4, "big") + b"\0\1" + b"\x01\x12\0\3\0\0\0\1" + bytes([0, orientation, 0, 0]) + bytes(4)
    )
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


def test_files_as_given_and_folders_by_name(folder):
    assert find_pictures([folder]) == [folder / "a.png", folder / "b.jpg"]
    assert find_pictures([folder / "b.jpg", folder]) == [folder / "b.jpg", folder / "a.png"]


@pytest.mark.parametrize(("name", "message"), [("none.png", "does not exist"), ("empty", "no picture in this folder")])
def test_path_without_a_picture_is_named(folder, name, message):
    with pytest.raises(DatasetError, match=f"--images .*{name}: {message}"):
        find_pictures([folder / name])


def test_file_that_is_no_picture_is_named(folder):
    with (
        pytest.raises(DatasetError, match=r"notes\.txt: cannot decode"),
        opened_pictures([folder / "notes.txt"], categories=CATEGORIES),
    ):
        pass


@pytest.mark.parametrize(("orientation", "size"), [(1, (60, 90)), (6, (90, 60)), (8, (90, 60))])
def test_a_quarter_turn_in_exif_is_undone(folder, orientation, size):
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, :45] = 255  # the left half is white as stored
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    (folder / "turned.jpg").write_bytes(with_orientation(jpeg, orientation))
    with opened_pictures([folder / "turned.jpg"], categories=CATEGORIES) as dataset:
        read = dataset.read_image(0)
    assert read.shape == (*size, 3)
    left, top = read[:, : size[1] // 2].mean(), read[: size[0] // 2].mean()
    # EXIF 6: the stored left side is the top; 8: it is the bottom.
    assert {1: left > 200, 6: top > 200, 8: top < 50}[orientation]


def test_json_and_drawn_pictures(folder):
    (folder / "other").mkdir()
    cv2.imwrite(str(folder / "other/a.jpg"), np.full((60, 90, 3), 80, np.uint8))
    pictures = [folder / "a.png", folder / "other/a.jpg"]
    with opened_pictures(pictures, categories=CATEGORIES) as dataset:
        evaluator = CocoEvaluator(dataset.annotation_path)
        boxes = np.array([[10, 10, 40, 50], [50, 20, 80, 40]])
        evaluator.add(str(pictures[0]), boxes, np.array([0.9, 0.2]), np.array([7, 3]))
        evaluator.add(str(pictures[1]), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
        names = write_predictions(folder / "empty", evaluator, dataset, score_threshold=0.5)
    assert names == ["detections.json", "a.png", "a-2.png"]
    entries = json.loads((folder / "empty/detections.json").read_text())
    assert [(entry["image_id"], entry["category_name"], entry["bbox"]) for entry in entries] == [
        (str(pictures[0]), "cat", [10, 10, 30, 40]),
        (str(pictures[0]), "dog", [50, 20, 30, 20]),
    ]
    scale = 6  # a small picture is enlarged to see something
    drawn, plain = (cv2.imread(str(folder / "empty" / name)) for name in names[1:])
    assert drawn.shape == plain.shape == (60 * scale, 90 * scale, 3)
    changed = (np.abs(drawn.astype(int) - plain).max(axis=2) > 20).nonzero()
    assert changed[1].min() == 10 * scale
    assert changed[1].max() < 50 * scale  # the dog, at 0.2, is not drawn
    table = prediction_table(evaluator, score_threshold=0.5)
    assert list(table.columns[1].cells) == ["1", "0"]
    assert list(table.columns[2].cells) == ["cat 1", ""]
