"""Pictures of a user's own: which are found, how they are read, what is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn_data import DatasetError
from mrcnn_eval import CocoEvaluator
from mrcnn_eval.inference.picture_files import drawing_names, find_pictures
from mrcnn_eval.inference.pictures import Pictures
from mrcnn_eval.inference.predictions import (
    nothing_shown,
    prediction_table,
    write_predictions,
)

CATEGORIES = [(7, "cat"), (3, "dog")]


def opened(paths):
    return Pictures.of({str(path): path for path in paths}, categories=CATEGORIES)


@pytest.fixture
def folder(tmp_path):
    """b.jpg and a.png of 60 x 90 pixels, notes.txt, and an empty folder."""
    for name in ("b.jpg", "a.png"):
        cv2.imwrite(str(tmp_path / name), np.full((60, 90, 3), 80, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_files_as_given_and_folders_by_name(folder):
    assert find_pictures([folder]).pictures == [folder / "a.png", folder / "b.jpg"]
    assert find_pictures([folder / "b.jpg", folder]).pictures == [folder / "b.jpg", folder / "a.png"]


def test_the_content_decides_what_is_a_picture(folder):
    (folder / "._a.png").write_bytes(b"\0\5\x16\7" * 20)  # as macOS writes it beside a.png
    (folder / "page.jpg").write_text("<html>")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:90])
    (folder / "c.jfif").write_bytes((folder / "b.jpg").read_bytes())
    (folder / "d").write_bytes((folder / "a.png").read_bytes())
    pictures, left_out = find_pictures([folder])
    assert [path.name for path in pictures] == ["a.png", "b.jpg", "c.jfif", "d"]
    assert [path.name for path in left_out] == ["._a.png", "cut.png", "notes.txt", "page.jpg"]
    assert "cut off" in left_out[folder / "cut.png"]


@pytest.mark.parametrize(("name", "message"), [("none.png", "does not exist"), ("empty", "no picture in this folder")])
def test_path_without_a_picture_is_named(folder, name, message):
    with pytest.raises(DatasetError, match=f"--images .*{name}: {message}"):
        find_pictures([folder / name])


def test_file_that_is_no_picture_is_named(folder):
    with pytest.raises(DatasetError, match=r"notes\.txt: cannot decode"):
        find_pictures([folder / "notes.txt"])
    with pytest.raises(DatasetError, match=r"notes\.txt: cannot decode"):
        opened([folder / "notes.txt"])


def test_ids_that_look_like_numbers_stay_text(folder):
    for name in ("7", "07"):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    dataset = Pictures.of({name: folder / name for name in ("7", "07")}, categories=CATEGORIES)
    assert dataset.image_ids == ["7", "07"]
    evaluator = CocoEvaluator(dataset)
    evaluator.add("07", np.array([[10, 10, 40, 50]]), np.array([0.9]), np.array([7]))
    assert evaluator.results()[0]["image_id"] == "07"


def test_a_file_that_changes_its_size_is_named(folder):
    dataset = opened([folder / "a.png"])
    cv2.imwrite(str(folder / "a.png"), np.zeros((61, 90, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"a\.png: the image is 90 x 61 pixels"):
        dataset.read_image(0)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((60, 90), np.uint8),
        np.zeros((60, 90, 3)),
        np.zeros((60, 90, 4), np.uint8),
        np.zeros((0, 9, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_rgb_images_are_refused(picture):
    with pytest.raises(ValueError, match=r"uint8 \[height, width, 3\], RGB.*this array is"):
        Pictures.of({"a": picture}, categories=CATEGORIES)


# What EXIF says the stored top left corner is, upright: (at the right, at the bottom).
CORNERS = {
    1: (False, False),
    2: (True, False),
    3: (True, True),
    4: (False, True),
    5: (False, False),
    6: (True, False),
    7: (True, True),
    8: (False, True),
}


@pytest.mark.parametrize("stored_size", [(60, 90), (64, 64)])
@pytest.mark.parametrize("orientation", CORNERS)
def test_photographs_are_turned_upright_and_so_is_what_is_found(folder, with_orientation, orientation, stored_size):
    image = np.zeros((*stored_size, 3), np.uint8)
    image[:20, :30] = 255  # white at the top left as stored, and wider than high
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    path = folder / "turned.jpg"
    path.write_bytes(with_orientation(jpeg, orientation))
    height, width = stored_size[::-1] if orientation >= 5 else stored_size
    box_h, box_w = (30, 20) if orientation >= 5 else (20, 30)
    at_right, at_bottom = CORNERS[orientation]
    x, y = width - box_w if at_right else 0, height - box_h if at_bottom else 0
    dataset = opened([path])
    read = dataset.read_image(0)
    evaluator = CocoEvaluator(dataset)
    evaluator.add(str(path), np.array([[x, y, x + box_w, y + box_h]]), np.array([0.9]), np.array([7]))
    write_predictions(folder / "empty", evaluator, dataset, score_threshold=0.5)
    assert read.shape == (height, width, 3)
    expected = np.zeros((height, width), bool)
    expected[y : y + box_h, x : x + box_w] = True
    assert ((read[..., 0] > 127) == expected).mean() > 0.98  # JPEG blurs the edge
    assert json.loads((folder / "empty/detections.json").read_text())[0]["bbox"] == [x, y, box_w, box_h]
    drawn = cv2.imread(str(folder / "empty/turned.png"))
    scale = drawn.shape[0] // height
    assert drawn.shape[1] == width * scale
    centre = drawn[(2 * y + box_h) * scale // 2, (2 * x + box_w) * scale // 2]
    assert centre.min() > 200  # the white corner is where the box is


@pytest.mark.parametrize(
    ("scores", "score_threshold", "hint"),
    [
        ([[0.9], [0.1]], 0.5, None),
        ([[0.5]], 0.5, None),
        (
            [[0.02], [0.1279, 0.05]],
            0.5,
            "No object at a score of 0.5 or more; the highest score is 0.12: --score-threshold 0.12 shows it.",
        ),
        ([[], []], 0.5, "No object at a score of 0.05 or more: a lower --score-threshold shows less certain ones."),
    ],
)
def test_pictures_on_which_nothing_is_drawn_are_explained(scene, scores, score_threshold, hint):
    evaluator = CocoEvaluator(scene(images=len(scores)).annotations)
    for image, each in enumerate(scores, start=1):
        evaluator.add(image, np.zeros((len(each), 4)), np.array(each), np.ones(len(each), int))
    assert nothing_shown(evaluator, score_threshold=score_threshold, model_threshold=0.05) == hint


@pytest.mark.parametrize("name", ["a\\b.png", "x\ny.png", " lead.png", "%41.png", "[b].png", "a\x1b[2J.png"])
def test_odd_names_of_files_are_only_names(folder, name):
    (folder / "odd").mkdir()
    (folder / "odd" / name).write_bytes((folder / "a.png").read_bytes())
    pictures = find_pictures([folder / "odd"]).pictures
    dataset = opened(pictures)
    evaluator = CocoEvaluator(dataset)
    evaluator.add(str(pictures[0]), np.array([[10, 10, 40, 50]]), np.array([0.9]), np.array([7]))
    write_predictions(folder / "empty", evaluator, dataset, score_threshold=0.5)
    assert json.loads((folder / "empty/detections.json").read_text())[0]["image_id"] == str(folder / "odd" / name)
    assert (folder / "empty" / name).is_file()


def test_a_name_that_json_cannot_hold_is_an_error(folder):
    path = os.fsdecode(os.fsencode(folder) + b"/empty/\xff.png")
    Path(path).write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(DatasetError, match="the name is not valid UTF-8: rename the file"):
        find_pictures([folder / "empty"])


def test_json_and_drawn_pictures(folder):
    (folder / "other").mkdir()
    cv2.imwrite(str(folder / "other/a.jpg"), np.full((60, 90, 3), 80, np.uint8))
    pictures = [folder / "a.png", folder / "other/a.jpg"]
    dataset = opened(pictures)
    evaluator = CocoEvaluator(dataset)
    boxes = np.array([[10, 10, 40, 50], [50, 20, 80, 40]])
    evaluator.add(str(pictures[0]), boxes, np.array([0.9, 0.2]), np.array([7, 3]))
    evaluator.add(str(pictures[1]), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    write_predictions(folder / "empty", evaluator, dataset, score_threshold=0.5)
    names = drawing_names(pictures)
    assert names == ["a.png", "a-2.png"]
    entries = json.loads((folder / "empty/detections.json").read_text())
    assert [(entry["image_id"], entry["category_name"], entry["bbox"]) for entry in entries] == [
        (str(pictures[0]), "cat", [10, 10, 30, 40]),
        (str(pictures[0]), "dog", [50, 20, 30, 20]),
    ]
    scale = 6  # a small picture is enlarged to see something
    drawn, plain = (cv2.imread(str(folder / "empty" / name)) for name in names)
    assert drawn.shape == plain.shape == (60 * scale, 90 * scale, 3)
    changed = (np.abs(drawn.astype(int) - plain).max(axis=2) > 20).nonzero()
    assert changed[1].min() == 10 * scale
    assert changed[1].max() < 50 * scale  # the dog, at 0.2, is not drawn
    table = prediction_table(evaluator, score_threshold=0.5)
    assert list(table.columns[1].cells) == ["1", "0"]
    assert [str(cell) for cell in table.columns[2].cells] == ["cat 1", ""]
