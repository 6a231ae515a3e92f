"""Pictures show ground truth and detections at the right places."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mrcnn_data.drawing import GAP, GREY, TITLE_HEIGHT, class_color
from mrcnn_eval import CocoEvaluator
from mrcnn_eval.report.pictures import detected_instances, draw_contact_sheet, truth_instances


def filled(scene):
    example = scene(images=2, size=(100, 120), categories=(3, 8))
    example.truth([10, 20, 30, 40], category=8).truth([60, 20, 30, 40], iscrowd=1, category=3)
    example.truth([0, 0, 9, 9], category=3, segmentation=[])
    example.detection([12, 20, 30, 40], category=8, score=0.9).detection([50, 50, 20, 20], category=3, score=0.3)
    example.detection([10, 10, 20, 20], category=3, score=0.5)
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    return evaluator


def test_instances_of_truth_and_detections(scene):
    evaluator = filled(scene)
    first, crowd, box_only = truth_instances(evaluator, 1)
    assert (first.label, first.box, first.color) == ("class 8", (10, 20, 40, 60), class_color(1))
    ys, xs = np.nonzero(first.mask)
    assert (first.mask.shape, xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == ((100, 120), 10, 40, 20, 60)
    assert (crowd.label, box_only.label, box_only.mask) == ("crowd class 3", "class 3", None)
    low, high = detected_instances(evaluator, 1, score_threshold=0.5)
    assert (low.label, high.label, high.box) == ("class 3 0.50", "class 8 0.90", (12, 20, 42, 60))
    assert (np.flatnonzero(high.mask.any(axis=0))[[0, -1]] == [12, 41]).all()


def test_a_single_class_is_named_in_the_title_only(scene):
    example = scene().truth([10, 20, 30, 40]).truth([60, 20, 30, 40], iscrowd=1).detection([10, 20, 30, 40])
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    assert [instance.label for instance in truth_instances(evaluator, 1)] == ["", "crowd"]
    assert [instance.label for instance in detected_instances(evaluator, 1, score_threshold=0)] == ["0.90"]


def test_objects_of_a_single_class_are_told_apart_by_color(scene):
    example = scene(categories=(3,))
    for x in (10, 30, 50):
        example.truth([x, 20, 20, 40], category=3).detection([x, 20, 20, 40], category=3)
    example.truth([80, 20, 10, 40], iscrowd=1, category=3)
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    truth = [instance.color for instance in truth_instances(evaluator, 1)]
    assert (len(set(truth)), truth[-1]) == (4, GREY)
    found = [instance.color for instance in detected_instances(evaluator, 1, score_threshold=0)]
    assert (len(found), len(set(found))) == (3, 3)
    first, second = truth_instances(two_classes := filled(scene), 1)[::2]
    assert (first.color, second.color) == (class_color(1), class_color(0))  # of several classes each has its color
    assert len(two_classes.ground_truth.category_ids) == 2


def test_contact_sheet_shows_both_sides_at_their_place(scene, tmp_path):
    evaluator = filled(scene)
    evaluator.add(2, [], [], [], [])
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / name), np.full((100, 120, 3), 90, np.uint8))
    draw_contact_sheet(tmp_path / "sheet.png", evaluator, tmp_path)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    width, height = 120 * 4, 100 * 4  # enlarged by 4
    assert sheet.shape[0] == 2 * (height + TITLE_HEIGHT) + GAP
    # The middle of the object of class 8, on the left; of its detection, on the right of it.
    left, right = sheet[TITLE_HEIGHT + 40 * 4, 25 * 4], sheet[TITLE_HEIGHT + 40 * 4, width + GAP + 27 * 4]
    tinted = 0.55 * 90 + 0.45 * np.array(class_color(1))
    np.testing.assert_allclose(left, tinted, atol=1)
    np.testing.assert_allclose(right, tinted, atol=1)
    second = sheet[height + 2 * TITLE_HEIGHT + GAP :, :width]
    np.testing.assert_array_equal(second, np.full((height, width, 3), 90))


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [
        (3, (40, 100), (0, 0)),  # as stored, though viewers show it half a turn off
        (6, (40, 100), (0, 0)),
        (6, (100, 40), (0, 30)),  # upright: what is stored at the top left is at the top right
    ],
)
def test_orientation_follows_the_sizes_of_the_annotations(scene, with_orientation, tmp_path, orientation, size, corner):
    stored = np.zeros((40, 100, 3), np.uint8)
    stored[:10, :10] = 255
    jpeg = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    (tmp_path / "1.png").write_bytes(with_orientation(jpeg, orientation))
    y, x = corner
    box = [x, y, 10, 10]
    example = scene(size=size).truth(box, segmentation=None).detection(box)
    del example.results[0]["segmentation"]
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    draw_contact_sheet(tmp_path / "sheet.png", evaluator, tmp_path)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[TITLE_HEIGHT:]
    scale = sheet.shape[0] // size[0]
    for left in (0, size[1] * scale + GAP):  # ground truth, detections
        picture = sheet[:, left : left + size[1] * scale]
        assert picture[(y + 5) * scale, (x + 5) * scale].min() > 200
        assert picture[(size[0] - y - 5) * scale, (size[1] - x - 5) * scale].max() < 50


def test_contact_sheet_without_images(scene, tmp_path):
    draw_contact_sheet(tmp_path / "sheet.png", CocoEvaluator(scene().annotations), tmp_path)
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None
