"""CocoEvaluator against examples that can be checked by hand."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_eval import CocoEvaluator, GroundTruthError, ResultsError

BACKENDS = ("hotcoco", "pycocotools")
BOX = [10, 20, 30, 40]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def evaluate(scene, **options):
    evaluator = CocoEvaluator(scene.annotations, **options)
    evaluator.add_results(scene.results)
    return evaluator.evaluate()


def test_one_perfect_box_scores_one(scene, backend):
    result = evaluate(scene().truth(BOX).detection(BOX), backend=backend)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    # 30 x 40 = 1200 px is medium (32^2 to 96^2); there is nothing small or large to find.
    expected = {name: -1.0 if name[-1] in "sl" else pytest.approx(1.0) for name in names}
    assert result.stats == {"bbox": expected, "segm": expected}
    assert tuple(result.stats["bbox"]) == names
    assert (result.num_images, result.num_ground_truths, result.num_detections, result.warnings) == (1, 1, 1, ())


def test_arrays_give_the_same_as_a_results_list(scene, backend):
    example = scene().truth(BOX).detection([10, 20, 30, 30])
    evaluator = CocoEvaluator(example.annotations, backend=backend)
    rle = example.results[0]["segmentation"]
    as_bytes = {"size": rle["size"], "counts": rle["counts"].encode()}
    evaluator.add(1, np.float32([[10, 20, 40, 50]]), np.float32([0.9]), np.int32([1]), [as_bytes])
    assert evaluator.evaluate().stats == evaluate(example, backend=backend).stats
    # IoU 900 / 1200 = 0.75 passes 6 of the 10 thresholds.
    assert evaluator.evaluate().stats["bbox"]["AP"] == pytest.approx(0.6)


def test_half_the_objects_found(scene, backend):
    result = evaluate(scene().truth(BOX).truth([60, 20, 30, 40]).detection(BOX), backend=backend)
    # Precision is 1 up to recall 0.5: 51 of the 101 recall thresholds.
    assert result.stats["bbox"]["AP"] == pytest.approx(51 / 101)
    assert result.stats["segm"]["AR100"] == pytest.approx(0.5)


@pytest.mark.parametrize("ids", [(0, 1), (1, 1), (-5, 2**40), (None, None)])
def test_annotation_ids_do_no_harm(scene, backend, ids):
    other = [60, 20, 30, 40]
    example = scene().truth(BOX, id=ids[0]).truth(other, id=ids[1]).detection(BOX).detection(other)
    result = evaluate(example, backend=backend)
    assert result.stats["bbox"]["AP"] == result.stats["segm"]["AP"] == pytest.approx(1.0)


def test_category_ids_need_not_be_in_order_or_start_at_one(scene, backend):
    example = scene(categories=(7, 0, 90)).truth(BOX, category=7).truth([60, 20, 30, 40], category=0)
    example.detection(BOX, category=7).detection(BOX, category=90)
    result = evaluate(example, backend=backend)
    per_class = {name: stats["AP"] for name, stats in result.per_class["bbox"].items()}
    assert per_class == {"class 0": 0.0, "class 7": pytest.approx(1.0), "class 90": -1.0}
    assert result.stats["bbox"]["AP"] == pytest.approx(0.5)


def test_two_categories_of_one_name_are_told_apart(scene):
    example = scene(categories=(3, 5)).truth(BOX, category=3).detection(BOX, category=3)
    for category in example.annotations["categories"]:
        category["name"] = "nut"
    assert list(evaluate(example).per_class["segm"]) == ["nut (id 3)", "nut (id 5)"]


def test_image_ids_may_be_strings_or_huge(scene, backend):
    for ids in (("b", "a"), (2**60, 0)):
        example = scene(images=2).truth(BOX, image=1).truth(BOX, image=2).detection(BOX, image=2)
        for image, new in zip(example.annotations["images"], ids, strict=True):
            image["id"] = new
        for entry in example.annotations["annotations"] + example.results:
            entry["image_id"] = ids[entry["image_id"] - 1]
        assert evaluate(example, backend=backend).stats["bbox"]["AR100"] == pytest.approx(0.5)


@pytest.mark.parametrize("key", ["iscrowd", "area", "bbox", "id"])
def test_missing_annotation_key_has_its_default(scene, backend, key):
    result = evaluate(scene().truth(BOX, **{key: None}).detection(BOX), backend=backend)
    assert result.stats["bbox"]["APm"] == result.stats["segm"]["APm"] == pytest.approx(1.0)


def test_missing_info_has_its_default(scene, backend):
    example = scene().truth(BOX).detection(BOX)
    del example.annotations["info"]
    assert evaluate(example, backend=backend).stats["bbox"]["AP"] == pytest.approx(1.0)


def test_missing_area_is_the_masks(scene, backend):
    # A 60 x 60 box (3,600 px: medium) around an L of 5 px width: 60*5 + 55*5 = 575 px, small.
    corner = [[0, 0, 5, 0, 5, 55, 60, 55, 60, 60, 0, 60]]
    example = scene().truth([0, 0, 60, 60], area=None, segmentation=corner).detection([0, 0, 60, 60])
    result = evaluate(example, backend=backend)
    assert result.stats["bbox"]["APs"] == pytest.approx(1.0)
    assert result.stats["bbox"]["APm"] == -1.0


def test_size_class_of_a_mask_is_the_masks_area_not_the_boxes(scene, backend):
    # An L of 2 px width in an 80 x 80 box: 80*2 + 78*2 = 316 px is small, the box 6,400 px medium.
    mask = np.zeros((100, 100), np.uint8)
    mask[10:90, 10:12] = mask[88:90, 10:90] = 1
    assert mask.sum() == 316
    wrong = np.zeros((100, 100), np.uint8)
    wrong[0:2, 0:80] = wrong[0:80, 98:100] = 1
    example = scene()
    example.truth([10, 10, 80, 80], area=316, segmentation=example.rle(mask))
    example.detection([10, 10, 80, 80], segmentation=example.rle(mask), score=0.5)
    example.detection([10, 10, 80, 80], segmentation=example.rle(wrong), score=0.9)  # a false positive of small area
    result = evaluate(example, backend=backend)
    # The small false positive ranks first: precision 1/2. By box area it would be medium, ignored, and APs 1.
    assert result.stats["segm"]["APs"] == pytest.approx(0.5)


def test_ignore_counts_for_nothing_by_default_as_in_pycocotools(scene, reference_stats, backend):
    # One of two objects is ignored, the other found.
    other = [60, 20, 30, 40]
    example = scene().truth(BOX).truth(other, ignore=1).detection(BOX)
    stats = evaluate(example, backend=backend).stats["bbox"]
    assert stats["AP"] == pytest.approx(51 / 101)
    assert list(stats.values()) == pytest.approx(reference_stats(example.annotations, example.results, "bbox"))


def test_ignore_can_be_honoured(scene, backend):
    other = [60, 20, 30, 40]
    example = scene().truth(BOX).truth(other, ignore=1).detection(BOX)
    assert evaluate(example, backend=backend, honor_ignore=True).stats["bbox"]["AP"] == pytest.approx(1.0)
    example.detection(other, score=0.95)  # on the ignored object: neither right nor wrong
    assert evaluate(example, backend=backend, honor_ignore=True).stats["segm"]["AP"] == pytest.approx(1.0)
    example.detection(other, score=0.94)  # on it again: a duplicate, as an ignored object is no crowd
    assert evaluate(example, backend=backend, honor_ignore=True).stats["segm"]["AP"] == pytest.approx(0.5)


def test_crowd_takes_any_number_of_detections(scene, backend):
    example = scene().truth(BOX).truth([50, 50, 50, 50], iscrowd=1).detection(BOX, score=0.5)
    for x in (50, 60, 70, 80):
        example.detection([x, 60, 10, 10], score=0.9)
    assert evaluate(example, backend=backend).stats["segm"]["AP"] == pytest.approx(1.0)


def grid_of_150_objects(scene):
    example = scene(size=(200, 200))
    for index in range(150):
        box = [index % 15 * 13, index // 15 * 13, 10, 10]
        example.truth(box).detection(box, score=1 - index / 1000)
    return example


@pytest.mark.parametrize(("max_dets", "recall"), [(100, 100 / 150), (150, 1.0), (300, 1.0)])
def test_max_dets_beyond_100(scene, backend, max_dets, recall):
    # All 150 objects found; pycocotools' summarize says 0.663 at 100, and -1 at anything else.
    stats = evaluate(grid_of_150_objects(scene), backend=backend, max_dets=max_dets).stats["bbox"]
    assert stats["AP"] == pytest.approx({100: 67 / 101}.get(max_dets, 1.0))
    assert (stats["AR1"], stats["AR10"]) == (pytest.approx(1 / 150), pytest.approx(10 / 150))
    assert stats[f"AR{max_dets}"] == pytest.approx(recall)


@pytest.mark.parametrize(("max_dets", "names"), [(1, ["AR1"]), (3, ["AR1", "AR3"]), (10, ["AR1", "AR10"])])
def test_max_dets_below_eleven(scene, backend, max_dets, names):
    stats = evaluate(grid_of_150_objects(scene), backend=backend, max_dets=max_dets).stats["segm"]
    assert [name for name in stats if name[2:].isdigit() and name.startswith("AR")] == names
    assert stats[names[-1]] == pytest.approx(max_dets / 150)


def test_any_iou_thresholds(scene, backend):
    example = scene().truth(BOX).detection([10, 20, 30, 30])  # IoU 900 / 1200 = 0.75
    stats = evaluate(example, backend=backend, iou_thresholds=[0.3, 0.75, 0.76, 0.9]).stats["bbox"]
    assert stats["AP"] == pytest.approx(0.5)
    assert stats["AP75"] == pytest.approx(1.0)
    assert "AP50" not in stats
    assert evaluate(example, backend=backend, iou_thresholds=[0.5]).stats["segm"]["AP50"] == pytest.approx(1.0)


def test_any_area_ranges(scene, backend):
    # 10 x 10 is found, 30 x 40 is not; both ends of a range belong to it.
    example = scene().truth([0, 0, 10, 10]).truth(BOX).detection([0, 0, 10, 10])
    ranges = {"tiny": (0, 100), "middle": (100, 1200), "huge": (1201, 1e10)}
    result = evaluate(example, backend=backend, area_ranges=ranges)
    for iou_type in ("bbox", "segm"):
        stats = result.stats[iou_type]
        assert stats["ARtiny"] == pytest.approx(1.0)
        assert stats["ARmiddle"] == pytest.approx(0.5)
        assert (stats["APhuge"], stats["ARhuge"]) == (-1.0, -1.0)
        assert "APs" not in stats
    assert result.per_class["bbox"]["class 1"]["APmiddle"] == pytest.approx(51 / 101)
    assert list(evaluate(example, backend=backend, area_ranges={}).stats["bbox"])[:4] == ["AP", "AP50", "AP75", "AR1"]


def test_curves_are_those_behind_the_numbers(scene, backend):
    example = scene(images=2, categories=(1, 4)).truth(BOX).truth([60, 20, 30, 40]).truth(BOX, image=2, category=4)
    example.detection(BOX, score=0.8).detection([0, 0, 5, 5], score=0.9).detection(BOX, image=2, category=4)
    evaluator = CocoEvaluator(example.annotations, backend=backend)
    evaluator.add_results(example.results)
    curves = evaluator.precision_recall()["bbox"]
    assert curves.precision.shape == (10, 101, 2, 4, 3)
    # Class 1: wrong, right; one of two found: precision 1/2 up to recall 1/2.
    assert curves.precision[0, :, 0, 0, -1].tolist() == pytest.approx([0.5] * 51 + [0] * 50)
    assert curves.recall[0, :, 0, -1].tolist() == pytest.approx([0.5, 1.0])
    alone = evaluator.precision_recall(image_ids=[2])["bbox"]
    assert alone.precision[:, :, 1, 0, -1].mean() == evaluator.evaluate(image_ids=[2]).stats["bbox"]["AP"] > 0.999


def test_duplicated_detections_lower_ap(scene, backend):
    example = scene(images=2).truth(BOX).truth(BOX, image=2).detection(BOX).detection(BOX, image=2, score=0.8)
    example.detection(BOX, score=0.85)  # what a second rank on the same image would add
    # Right, wrong, right: precision 1 up to recall 0.5 (51 thresholds), then 2/3 (50).
    assert evaluate(example, backend=backend).stats["bbox"]["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_image_added_twice_is_an_error(scene):
    example = scene().truth(BOX).detection(BOX)
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    with pytest.raises(ResultsError, match="image 1 was added before"):
        evaluator.add_results(example.results)


def test_low_scores_count(scene, backend):
    # A threshold on the scores costs AP, so the evaluator has none.
    example = (
        scene().truth(BOX).truth([60, 20, 30, 40]).detection(BOX, score=0.9).detection([60, 20, 30, 40], score=0.01)
    )
    assert evaluate(example, backend=backend).stats["bbox"]["AP"] == pytest.approx(1.0)
    example.results = [entry for entry in example.results if entry["score"] >= 0.7]
    assert evaluate(example, backend=backend).stats["bbox"]["AP"] == pytest.approx(51 / 101)


def test_no_detections_score_zero_with_a_warning(scene, backend, caplog):
    result = evaluate(scene().truth(BOX), backend=backend)
    assert result.stats["bbox"]["AP"] == result.stats["segm"]["AP"] == result.stats["segm"]["AR100"] == 0.0
    assert result.warnings == ("nothing was detected: AP is 0",)
    assert "nothing was detected" in caplog.text


def test_boxes_without_masks_score_zero_masks_with_a_warning(scene, backend):
    example = scene().truth(BOX).detection(BOX)
    del example.results[0]["segmentation"]
    result = evaluate(example, backend=backend)
    assert (result.stats["bbox"]["AP"], result.stats["segm"]["AP"]) == (pytest.approx(1.0), 0.0)
    assert result.warnings == ("1 of 1 detections have no mask and do not count for segm",)


def test_masks_without_boxes(scene, backend):
    example = scene().truth(BOX).detection(BOX)
    del example.results[0]["bbox"]
    result = evaluate(example, backend=backend)
    assert (result.stats["bbox"]["AP"], result.stats["segm"]["AP"]) == (0.0, pytest.approx(1.0))
    assert result.warnings == ("1 of 1 detections have no box and do not count for bbox",)


def test_no_ground_truth_is_undefined_not_a_crash(scene, backend):
    result = evaluate(scene().detection(BOX), backend=backend)
    assert set(result.stats["bbox"].values()) == {-1.0}
    assert result.warnings == ("no ground-truth object on the images scored: AP is undefined (-1)",)


def test_neither_ground_truth_nor_detections(scene, backend):
    result = evaluate(scene(images=0, categories=()), backend=backend)
    assert set(result.stats["segm"].values()) == {-1.0}
    assert result.per_class == {"bbox": {}, "segm": {}}


def test_detections_on_an_image_without_objects_are_false(scene, backend):
    example = scene(images=2).truth(BOX).detection(BOX, score=0.5).detection(BOX, image=2, score=0.9)
    assert evaluate(example, backend=backend).stats["bbox"]["AP"] == pytest.approx(0.5)


def test_only_the_images_asked_for_count(scene, backend):
    example = scene(images=3).truth(BOX).truth(BOX, image=2).truth(BOX, image=3).detection(BOX).detection(BOX, image=3)
    evaluator = CocoEvaluator(example.annotations, backend=backend)
    evaluator.add_results(example.results)
    assert evaluator.evaluate().stats["bbox"]["AR100"] == pytest.approx(2 / 3)
    part = evaluator.evaluate(image_ids=[3, 1])
    assert part.stats["segm"]["AR100"] == pytest.approx(1.0)
    assert (part.num_images, part.num_ground_truths, part.num_detections) == (2, 2, 2)
    with pytest.raises(ResultsError, match="image 9 is not in the ground truth"):
        evaluator.evaluate(image_ids=[1, 9])


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "segmentation missing"),
        ([], "segmentation empty"),
        ([[]], "no polygon part is usable"),
        ([[60, 20, 30, 40]], "no polygon part is usable"),
        ([["a"] * 6], "no polygon part is usable"),
        ("0", "segmentation of unknown kind"),
        ({"size": [4, 4], "counts": [4, 4, 8]}, "RLE of another size than the image"),
        ({"size": [100, 100], "counts": [4, 4, 8]}, "RLE that cannot be decoded"),
        ({"size": [100, 100], "counts": [-4, 10004]}, "RLE that cannot be decoded"),
        ({"size": [100, 100], "counts": "04L4"}, "RLE that cannot be decoded"),
        ({"size": [100, 100]}, "RLE that cannot be decoded"),
        ({"size": [100, 100], "counts": [10000]}, "RLE without any pixel"),
        ({"size": "big", "counts": "0"}, "RLE of another size than the image"),
    ],
)
def test_object_without_a_mask_counts_for_boxes_and_is_ignored_for_masks(scene, backend, caplog, segmentation, reason):
    other = [60, 20, 30, 40]
    example = scene().truth(BOX).truth(other, segmentation=segmentation).detection(BOX, score=0.5)
    example.detection(other, score=0.9)
    result = evaluate(example, backend=backend)
    # Boxes: both right. Masks: one right at 0.5, the one at 0.9 is on a region to ignore.
    assert result.stats["bbox"]["AR100"] == pytest.approx(1.0)
    assert result.stats["segm"]["AP"] == pytest.approx(1.0)
    example.results.pop()
    result = evaluate(example, backend=backend)
    assert result.stats["bbox"]["AR100"] == pytest.approx(0.5)
    assert result.stats["segm"]["AR100"] == pytest.approx(1.0)
    assert f"1 x {reason} (annotation 2): box only" in caplog.text


def test_flat_polygon_is_one_part(scene, backend):
    example = scene().truth(BOX, segmentation=scene.polygon(BOX)[0]).detection(BOX)
    assert evaluate(example, backend=backend).stats["segm"]["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("box", [None, [1, 2, 3], [1, 2, 3, float("nan")], "box"])
def test_box_that_is_none_comes_from_the_mask(scene, backend, caplog, box):
    example = scene().truth(BOX, bbox=box).detection(BOX)
    assert evaluate(example, backend=backend).stats["bbox"]["AP"] == pytest.approx(1.0)
    example.annotations["annotations"].append({"id": 7, "image_id": 1, "category_id": 1, "bbox": box})
    result = evaluate(example, backend=backend)
    assert result.stats["bbox"]["AP"] == pytest.approx(1.0)
    assert result.num_ground_truths == 1
    assert "and no segmentation to take it from (annotation 7): not trained, not scored" in caplog.text


@pytest.mark.parametrize("part", [[0, 0, 5, 5], [float("nan"), 1, 9, 1, 9, 9], [0, 0, 1e9, 0, 5, 5], []])
@pytest.mark.parametrize("first", [True, False])
def test_polygon_parts_without_area_are_dropped_and_counted(scene, backend, caplog, part, first):
    # pycocotools looks at the first part only, and takes four numbers for a box; NaN and 1e9 make it take all memory.
    whole = scene.polygon(BOX)[0]
    example = scene().truth(BOX, segmentation=[part, whole] if first else [whole, part]).detection(BOX)
    assert evaluate(example, backend=backend).stats["segm"]["AP"] == pytest.approx(1.0)
    assert "1 x polygon part " in caplog.text
    assert "(annotation 1): part dropped" in caplog.text


def test_masks_may_be_polygons_or_rle_in_one_file(scene, backend):
    example = scene(images=3).truth(BOX)
    mask = np.zeros((100, 100), np.uint8)
    mask[20:60, 10:40] = 1
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.T.ravel(), 2])))
    example.truth(BOX, image=2, segmentation={"size": [100, 100], "counts": runs.tolist()})
    example.truth(BOX, image=3, segmentation=example.rle(mask))
    for image in (1, 2, 3):
        example.detection(BOX, image=image)
    assert evaluate(example, backend=backend).stats["segm"]["AP"] == pytest.approx(1.0)


def test_image_without_size_needs_image_sizes_for_polygons(scene, backend):
    example = scene().truth(BOX).detection(BOX)
    example.annotations["images"][0] |= {"width": -1, "height": -1}
    with pytest.raises(GroundTruthError, match="image 1 has no width and height"):
        CocoEvaluator(example.annotations)
    assert evaluate(example, backend=backend, image_sizes={1: (100, 100)}).stats["segm"]["AP"] == pytest.approx(1.0)


def test_results_come_back_unrounded_in_the_coco_schema(scene):
    example = scene().truth(BOX)
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add(1, np.float32([[10.1, 20.2, 40.3, 60.4]]), np.float32([1 / 3]), [1], [example.box_rle(BOX)])
    (entry,) = evaluator.results()
    assert list(entry) == ["image_id", "category_id", "bbox", "score", "segmentation"]
    x1, y1, x2, y2 = (float(value) for value in np.float32([10.1, 20.2, 40.3, 60.4]))
    assert entry["bbox"] == [x1, y1, x2 - x1, y2 - y1]
    assert entry["score"] == float(np.float32(1 / 3))
    assert entry["segmentation"] == example.box_rle(BOX)
    again = CocoEvaluator(example.annotations)
    again.add_results(json.loads(json.dumps(evaluator.results())))
    assert again.results() == evaluator.results()
    assert again.evaluate() == evaluator.evaluate()


def test_pycocotools_accepts_the_results(scene, reference_stats):
    example = scene(images=2).truth(BOX).truth(BOX, image=2)
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add(2, [[10, 20, 40, 50]], [0.5], [1], [example.box_rle([10, 20, 30, 30])])
    for iou_type in ("bbox", "segm"):
        stats = reference_stats(copy.deepcopy(example.annotations), evaluator.results(), iou_type)
        assert list(evaluator.evaluate().stats[iou_type].values()) == pytest.approx(stats, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "image 9 is not in the ground truth"),
        ({"image_id": [1]}, "image"),
        ({"category_id": 5}, "image 1: category_id 5 is not in the ground truth, which has "),
        ({"category_id": 1.5}, "category_ids must be whole numbers"),
        ({"category_id": None}, "category_ids must be whole numbers"),
        ({"score": float("nan")}, "image 1: a score is not finite"),
        ({"score": "high"}, "image 1: score must be a number, not 'high'"),
        ({"bbox": [1, 2, 3]}, r"image 1: bbox must be \[x, y, width, height\]"),
        ({"bbox": [1, 2, float("inf"), 4]}, "image 1: a box is not finite"),
        ({"segmentation": {"size": [50, 100], "counts": "0"}}, "differs from the image's"),
        ({"segmentation": {"size": [100, 100], "counts": [0, 10000]}}, "compressed"),
        ({"segmentation": {"size": [100, 100], "counts": "\x7f"}}, "characters"),
        ({"segmentation": {"size": [100, 100], "counts": "04L4"}}, "damaged"),
        ({"segmentation": {"size": [100, 100], "counts": 7}}, "compressed string"),
        ({"segmentation": {"size": 100, "counts": "0"}}, "RLE size"),
        ({"segmentation": [[1, 1, 9, 1, 9, 9]]}, "compressed"),
    ],
)
def test_bad_result_is_one_clear_error(scene, change, message):
    example = scene().truth(BOX).detection(BOX)
    example.results[0] |= change
    with pytest.raises(ResultsError, match=message) as error:
        evaluate(example)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["image_id", "category_id", "score"])
def test_result_without_a_key_is_an_error(scene, key):
    example = scene().truth(BOX).detection(BOX)
    del example.results[0][key]
    with pytest.raises(ResultsError, match=key):
        evaluate(example)


def test_columns_of_different_length_are_an_error(scene):
    evaluator = CocoEvaluator(scene().truth(BOX).annotations)
    with pytest.raises(ResultsError, match="2 scores, but boxes of shape"):
        evaluator.add(1, [[0, 0, 1, 1]], [0.5, 0.4], [1, 1])
    evaluator.add(1, [], [], [], [])  # nothing found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "annotation 1 belongs to image 9, which is not in the list of images"),
        ({"image_id": None}, r"missing required field `image_id` in annotations\[0\]"),
        ({"image_id": [1]}, r"Expected `int \| str`, got `array` - at `image_id` in annotations\[0\]"),
        ({"category_id": 12}, r"annotation 1 has category 12, which is not in the list of categories \(1\)"),
    ],
)
def test_bad_annotation_is_one_clear_error(scene, change, message):
    with pytest.raises(GroundTruthError, match=message) as error:
        CocoEvaluator(scene().truth(BOX, **change).annotations)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("<html>", "not JSON"),
        ("[]", "not a COCO instances file"),
        ("{}", 'not a COCO instances file: it has no "images"'),
        ('{"images": [], "categories": []}', 'not a COCO instances file: it has no "annotations"'),
        ('{"images": [{"id": 1}, {"id": 1}], "categories": [], "annotations": []}', "image id 1 occurs twice"),
        ('{"images": [{}], "categories": [], "annotations": []}', r"missing required field `id` in images\[0\]"),
        (
            '{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "annotations": []}',
            "category id 1 occurs twice",
        ),
        ('{"images": [], "categories": [{"name": "x"}], "annotations": []}', r"missing .*`id` in categories\[0\]"),
    ],
)
def test_bad_annotation_file_is_named(tmp_path, text, message):
    path = tmp_path / "truth.json"
    path.write_text(text)
    with pytest.raises(GroundTruthError, match=message) as error:
        CocoEvaluator(path)
    assert str(path) in str(error.value)


def test_file_with_nan_and_byte_order_mark_is_read(scene, tmp_path):
    example = scene().truth(BOX, area=float("nan")).detection(BOX)
    (tmp_path / "truth.json").write_text(json.dumps(example.annotations), encoding="utf-8-sig")
    evaluator = CocoEvaluator(tmp_path / "truth.json")
    evaluator.add_results(example.results)
    assert evaluator.evaluate().stats["segm"]["APm"] == pytest.approx(1.0)


def test_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(GroundTruthError, match=r"absent\.json: cannot read the annotation file: No such file"):
        CocoEvaluator(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "options",
    [
        {"max_dets": 0},
        {"backend": "other"},
        {"iou_types": ()},
        {"iou_types": ["box"]},
        {"iou_thresholds": []},
        {"iou_thresholds": [0.5, 0.5]},
        {"iou_thresholds": [0.0, 0.5]},
        {"iou_thresholds": [0.5, 1.1]},
        {"area_ranges": {"s": (5, 1)}},
        {"area_ranges": {"s": (-1, 1)}},
        {"area_ranges": {"50": (0, 1)}},
    ],
)
def test_bad_option_is_an_error(scene, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CocoEvaluator(scene().annotations, **options)


def test_path_dict_and_input_stay_untouched(scene, tmp_path):
    example = scene().truth(BOX, area=None, iscrowd=None).detection(BOX)
    before = copy.deepcopy((example.annotations, example.results))
    (tmp_path / "truth.json").write_text(json.dumps(example.annotations))
    from_path = CocoEvaluator(tmp_path / "truth.json")
    from_path.add_results(example.results)
    assert from_path.evaluate() == evaluate(example) == evaluate(example, backend="pycocotools")
    assert (example.annotations, example.results) == before


def test_importing_the_package_does_not_import_tensorflow():
    code = "import sys, mrcnn_eval; mrcnn_eval.CocoEvaluator; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ids_and_numbers_of_numpy_become_json(scene):
    evaluator = CocoEvaluator(scene().truth(BOX).annotations)
    ids = np.array([1])
    evaluator.add(ids[0], np.float32([[10, 20, 40, 60]]), np.float32([0.5]), ids, [scene().box_rle(BOX)])
    (entry,) = json.loads(json.dumps(evaluator.results()))
    assert (entry["image_id"], entry["category_id"], entry["bbox"], entry["score"]) == (1, 1, BOX, 0.5)
    assert [type(image_id) for image_id in evaluator.image_results] == [int]
    evaluator = CocoEvaluator(scene().annotations)
    evaluator.add_results([{**entry, "image_id": ids[0], "category_id": ids[0]}])
    assert json.loads(json.dumps(evaluator.results())) == [entry]


def test_masks_without_a_pixel_are_counted_and_never_right(scene):
    example = scene().truth(BOX).detection(BOX, score=0.5)
    example.detection(BOX, score=0.9, segmentation=scene.rle(np.zeros((100, 100))))
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    result = evaluator.evaluate()
    assert result.warnings == ("1 of 2 detections have a mask without a pixel: they match no object",)
    assert result.stats["segm"]["AP"] == pytest.approx(0.5)
    boxes = CocoEvaluator(example.annotations, iou_types=["bbox"])
    boxes.add_results(example.results)
    assert boxes.evaluate().warnings == ()


def with_counts(scene, counts):
    example = scene().truth(BOX).detection(BOX)
    return example.annotations, [{**example.results[0], "segmentation": {"size": [100, 100], "counts": counts}}]


def test_counts_that_are_empty(scene):
    annotations, results = with_counts(scene, "")
    with pytest.raises(ResultsError, match="RLE counts are empty"):
        CocoEvaluator(annotations).add_results(results)


def test_counts_with_doubled_backslashes(scene):
    """They decode to another mask of another size without an error."""
    candidates = (mask_utils.encode(np.asfortranarray(np.tri(100, k=k, dtype=np.uint8)))["counts"] for k in range(90))
    counts = next(text.decode() for text in candidates if b"\\" in text)
    annotations, results = with_counts(scene, counts.replace("\\", "\\\\"))
    with pytest.raises(ResultsError, match="doubled backslashes"):
        CocoEvaluator(annotations).add_results(results)
    CocoEvaluator(annotations).add_results(with_counts(scene, counts)[1])


def test_a_warning_when_every_mask_is_empty(scene):
    empty = mask_utils.encode(np.zeros((100, 100), np.uint8, order="F"))["counts"].decode()
    annotations, results = with_counts(scene, empty)
    evaluator = CocoEvaluator(annotations)
    evaluator.add_results(results)
    (warning,) = evaluator.evaluate().warnings
    assert warning.startswith("EVERY mask is empty (1 of them): mask AP is 0")


def two_perfect_boxes(scene, first_id):
    """Two objects with the ids `first_id` and the next, both found."""
    other = [50, 60, 20, 20]
    example = scene().truth(BOX).truth(other).detection(BOX).detection(other)
    for number, entry in enumerate(example.annotations["annotations"]):
        entry["id"] = first_id + number
    return example


def test_id_0_is_an_object(scene, backend):
    result = evaluate(two_perfect_boxes(scene, 0), backend=backend)
    assert result.stats["bbox"]["AP"] == pytest.approx(1.0)
    assert evaluate(two_perfect_boxes(scene, 1), backend="pycocotools", pycocotools_id0=True).stats == result.stats


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_numbers_of_pycocotools_for_id_0(scene, iou_type):
    """Stock pycocotools, run on the same file: 0.252 for one of two perfect boxes."""
    example = two_perfect_boxes(scene, 0)
    result = evaluate(example, backend="pycocotools", pycocotools_id0=True)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(example.annotations)
        truth.createIndex()
        stock = COCOeval(truth, truth.loadRes(copy.deepcopy(example.results)), iou_type)
        stock.evaluate()
        stock.accumulate()
        stock.summarize()
    assert stock.stats[0] == pytest.approx(0.2525, abs=1e-4)
    np.testing.assert_allclose(list(result.stats[iou_type].values()), stock.stats, atol=1e-9)


def test_id_0_of_pycocotools_needs_its_backend(scene):
    with pytest.raises(ValueError, match="pycocotools_id0 needs backend='pycocotools'"):
        CocoEvaluator(scene().truth(BOX).annotations, pycocotools_id0=True)
