"""Outcomes of detections and objects: by hand, against pycocotools' own matching, and their counts."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_eval import CocoEvaluator
from mrcnn_eval.mistakes.counts import best_threshold, calibration, class_errors, confusion, image_f1
from mrcnn_eval.mistakes.outcomes import BACKGROUND, CLASS, DUPLICATE, IGNORED, LOCALISATION, RIGHT, outcomes

CAT, DOG = 1, 2


def judged(example, **options):
    evaluator = CocoEvaluator(example.annotations, **options)
    evaluator.add_results(example.results)
    return outcomes(evaluator)


@pytest.fixture
def one_of_each(scene):
    """Two cats, a dog and a crowd of dogs; by falling score one detection of each kind, then a second background."""
    example = scene(images=2, categories=(CAT, DOG))
    example.truth([0, 0, 20, 20], category=CAT).truth([40, 0, 20, 20], category=CAT)
    example.truth([0, 40, 20, 20], category=DOG).truth([40, 40, 60, 60], category=DOG, iscrowd=1)
    example.detection([0, 0, 20, 20], category=CAT, score=0.9)  # right
    example.detection([0, 0, 20, 16], category=CAT, score=0.8)  # the same cat again
    example.detection([0, 40, 20, 20], category=CAT, score=0.7)  # a dog taken for a cat
    example.detection([50, 0, 20, 20], category=CAT, score=0.6)  # IoU 1/3 with the second cat
    example.detection([70, 70, 10, 10], category=CAT, score=0.5)  # on the crowd, but of another class
    example.detection([50, 50, 10, 10], category=DOG, score=0.4)  # on the crowd
    example.detection([0, 0, 9, 9], category=DOG, image=2, score=0.3)  # nothing there
    return example


@pytest.mark.parametrize("iou_types", [("bbox", "segm"), ("bbox",)])
def test_one_of_each_kind(one_of_each, iou_types):
    result = judged(one_of_each, iou_types=iou_types)
    assert result.iou_type == iou_types[-1]
    assert result.det_kinds.tolist() == [RIGHT, DUPLICATE, CLASS, LOCALISATION, BACKGROUND, IGNORED, BACKGROUND]
    assert result.det_objects.tolist() == [0, 0, 2, 1, -1, 3, -1]
    assert result.det_ious.tolist() == pytest.approx([1, 0.8, 1, 1 / 3, 0, 1, 0])
    assert result.det_scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert result.det_images.tolist() == [0] * 6 + [1]
    assert result.object_rows.tolist() == [0, 1, 2]
    assert result.found_scores.tolist() == [0.9, -np.inf, -np.inf]


def test_counts_by_class(one_of_each):
    errors = class_errors(judged(one_of_each), threshold=0.35)
    assert errors.objects.tolist() == [2, 1]
    assert errors.found.tolist() == [1, 0]
    assert {kind: counts.tolist() for kind, counts in errors.wrong.items()} == {
        LOCALISATION: [1, 0],
        CLASS: [1, 0],
        DUPLICATE: [1, 0],
        BACKGROUND: [1, 0],  # the one on image 2 is below the threshold
    }
    assert class_errors(judged(one_of_each), threshold=0.95).found.tolist() == [0, 0]


def test_confusion_adds_up(one_of_each):
    result = judged(one_of_each)
    # Rows cat, dog, no object; columns cat, dog, missed.
    assert confusion(result, threshold=0).tolist() == [[1, 0, 1], [1, 0, 0], [3, 1, 0]]
    assert confusion(result, threshold=0.75).tolist() == [[1, 0, 1], [0, 0, 1], [1, 0, 0]]


def test_best_threshold_has_the_best_f1(scene):
    example = scene().truth([0, 0, 20, 20]).truth([40, 0, 20, 20])
    for box, score in (([0, 0, 20, 20], 0.9), ([70, 70, 20, 20], 0.8), ([40, 0, 20, 20], 0.7), ([70, 0, 9, 9], 0.6)):
        example.detection(box, score=score)
    result = judged(example)  # F1: 2/3 at 0.9, 1/2 at 0.8, 4/5 at 0.7, 2/3 at 0.6
    assert best_threshold(result) == 0.7
    assert best_threshold(judged(scene())) == 0.5
    assert best_threshold(judged(scene().detection([0, 0, 9, 9]))) == 0.5  # nothing is right


def test_calibration_by_hand(scene):
    example = scene(images=4)
    for image, score in enumerate((0.1, 0.8, 0.9, 0.9), start=1):
        example.truth([0, 0, 20, 20], image=image)
        example.detection([0, 0, 20, 20] if image > 2 else [50, 50, 20, 20], image=image, score=score)
    result = calibration(judged(example), num_bins=2)
    assert (result.right.tolist(), result.wrong.tolist()) == ([0, 2], [1, 1])
    assert result.mean_scores.tolist() == pytest.approx([0.1, 2.6 / 3])
    assert result.error == pytest.approx((0.1 + 0.6) / 4)  # |0.1 - 0| once, |2.6 - 2| over three
    empty = calibration(judged(scene()), num_bins=2)
    assert empty.right.tolist() == [0, 0]
    assert np.isnan(empty.error)
    assert calibration(judged(scene().detection([0, 0, 9, 9], score=1.0)), num_bins=2).wrong.tolist() == [0, 1]


def test_f1_of_images(one_of_each):
    result = judged(one_of_each)
    assert image_f1(result, threshold=0.45).tolist() == pytest.approx([2 / (3 + 5), 1])  # image 2: nothing, rightly
    assert image_f1(result, threshold=0).tolist() == pytest.approx([2 / (3 + 5), 0])


def test_only_the_images_asked_for(one_of_each):
    evaluator = CocoEvaluator(one_of_each.annotations)
    evaluator.add_results(one_of_each.results)
    result = outcomes(evaluator, image_ids=[2])
    assert (result.image_ids, result.det_kinds.tolist(), result.object_rows.tolist()) == ([2], [BACKGROUND], [])


def test_ignored_objects_are_neither_found_nor_missed(scene):
    example = scene().truth([0, 0, 20, 20], ignore=1)
    example.detection([0, 0, 20, 20], score=0.9).detection([0, 0, 20, 20], score=0.8)
    result = judged(example, honor_ignore=True)
    assert (result.det_kinds.tolist(), result.object_rows.tolist()) == ([IGNORED, DUPLICATE], [])
    assert judged(example).det_kinds.tolist() == [RIGHT, DUPLICATE]


def test_object_without_a_mask_is_a_region_for_masks(scene):
    example = scene().truth([0, 0, 20, 20], segmentation=None).detection([0, 0, 10, 10])
    assert judged(example).det_kinds.tolist() == [IGNORED]
    assert judged(example, iou_types=("bbox",)).det_kinds.tolist() == [LOCALISATION]


def test_more_than_256_detections_of_an_image(scene):
    example = scene(size=(400, 400))
    boxes = [[x, y, 10, 10] for x in range(0, 400, 20) for y in range(0, 400, 20)]
    for box in boxes:
        example.truth(box).detection(box)
    assert judged(example, max_dets=1000).det_kinds.tolist() == [RIGHT] * 400
    assert judged(example, max_dets=100).det_kinds.tolist() == [RIGHT] * 100


def random_scene(scene, rng):
    """Crowds, ignored objects, ties of score and of IoU, several classes, empty images."""
    example = scene(images=3, size=(64, 64), categories=(CAT, DOG))

    def box():
        x, y = rng.integers(0, 12, 2) * 4
        return [int(x), int(y), int(rng.integers(1, 5) * 4), int(rng.integers(1, 5) * 4)]

    for image in (1, 2, 3):
        boxes = [box() for _ in range(rng.integers(0, 5))]
        for one in boxes:
            example.truth(one, image=image, category=int(rng.integers(1, 3)), iscrowd=int(rng.random() < 0.2))
        for one in [*boxes, *boxes, *(box() for _ in range(rng.integers(0, 4)))]:
            score = float(rng.integers(0, 5) / 4)
            example.detection(one, image=image, category=int(rng.integers(1, 3)), score=score)
    return example


def pycocotools_kinds(example, iou_type):
    """(image, class, score, kind) of every detection, the kinds right, ignored or wrong (None)."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = example.annotations
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(example.results), iou_type)
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
    kinds = []
    for entry in evaluation.evalImgs:
        if entry is not None:
            columns = (entry["dtScores"], entry["dtMatches"][0], entry["dtIgnore"][0])
            for score, match, ignored in zip(*columns, strict=True):
                kind = IGNORED if ignored else RIGHT if match else None
                kinds.append((entry["image_id"], entry["category_id"], score, kind))
    return sorted(kinds, key=repr)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_matching_is_pycocotools(scene, iou_type, seed):
    example = random_scene(scene, np.random.default_rng(seed))
    if not example.results:
        return
    result = judged(example, iou_types=(iou_type,))
    columns = (result.det_images, result.det_classes, result.det_scores, result.det_kinds)
    kinds = [
        (int(image) + 1, int(category) + 1, float(score), int(kind) if kind in (RIGHT, IGNORED) else None)
        for image, category, score, kind in zip(*columns, strict=True)
    ]
    assert sorted(kinds, key=repr) == pycocotools_kinds(example, iou_type)
