"""What trains is what is scored: the same objects with the same masks, or regions to ignore on both sides."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from mrcnn_data import CocoDataset, DatasetError, instance_masks
from mrcnn_eval import CocoEvaluator, GroundTruth, GroundTruthError, load_ground_truth
from mrcnn_eval.mistakes.outcomes import IGNORED, outcomes
from mrcnn_eval.scoring.segmentation import to_mask

SIZE = (20, 20)
SQUARE = [4, 4, 12, 4, 12, 12, 4, 12]  # 8 x 8 pixels
BOX = [4, 4, 8, 8]
RUNS = [84, *[8, 12] * 7, 8, 168]  # the square, column by column


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for name in ("1.png", "2.png", "sub/1.png"):
        cv2.imwrite(str(folder / name), np.full((*SIZE, 3), 80, np.uint8))
    return folder


def content_of(*annotations, images=None, categories=None):
    defaults = {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": 64, "bbox": BOX, "segmentation": [SQUARE]}
    entries = [{"id": number, **defaults, **annotation} for number, annotation in enumerate(annotations, start=1)]
    return {
        "images": images or [{"id": 1, "file_name": "1.png", "height": 20, "width": 20}],
        "annotations": [{key: value for key, value in entry.items() if value is not ...} for entry in entries],
        "categories": categories or [{"id": 1, "name": "thing"}],
    }


def opened(content, image_dir, **options):
    lists = {name: content[name] for name in ("images", "annotations", "categories")}
    return CocoDataset.from_dicts(**lists, image_dir=image_dir, **options)


def add_what_is_trained(evaluator, dataset):
    """Give the evaluator, as detections, exactly what the loader trains; a box without a mask as its rectangle."""
    for index, image_id in enumerate(dataset.image_ids):
        instances = dataset.instances(index)
        masks = instance_masks(dataset, index)
        for mask, box in zip(masks, instances.boxes, strict=True):
            if not mask.any():
                x1, y1, x2, y2 = (round(float(edge)) for edge in box)
                mask[y1:y2, x1:x2] = 1
        rles = [mask_utils.encode(np.asfortranarray(mask)) for mask in masks]
        category_ids = np.array(dataset.category_ids)[instances.classes - 1]
        evaluator.add(image_id, instances.boxes, np.full(len(rles), 0.9), category_ids, rles)


def perfect_ap(content, image_dir, *, honor_ignore=False):
    """Pixels trained and pixels scored of the first object, box AP and mask AP of what is trained."""
    dataset = opened(content, image_dir)
    results = []
    for annotations in (dataset, content):
        evaluator = CocoEvaluator(annotations, honor_ignore=honor_ignore)
        add_what_is_trained(evaluator, dataset)
        stats = evaluator.evaluate().stats
        truth = evaluator.ground_truth
        segmentation = truth.segmentations[0] if truth.segmentations else None
        scored = 0 if segmentation is None else int(to_mask(segmentation, size=SIZE).sum())
        trained = int(instance_masks(dataset, 0)[:1].sum())
        results.append((trained, scored, stats["bbox"]["AP"], stats["segm"]["AP"]))
    assert results[0] == results[1]
    return results[0]


FIGURE_OF_TWO = [1, 1, 3, 1, 3, 3, 1, 3, 1]  # 9 numbers: an odd part


@pytest.mark.parametrize(
    ("annotation", "pixels"),
    [
        ({"segmentation": [SQUARE, FIGURE_OF_TWO]}, 64),
        ({"segmentation": [SQUARE, [1, 1, 3, 1, 3, 3, 1]]}, 64),
        ({"segmentation": [list(map(str, SQUARE))]}, 64),
        ({"segmentation": {"size": [20, 20], "counts": list(map(float, RUNS))}}, 64),
        ({"segmentation": {"size": [20.0, "20"], "counts": list(map(str, RUNS))}}, 64),
        ({"segmentation": SQUARE}, 64),
        ({"iscrowd": "0"}, 64),
        ({"iscrowd": "false", "ignore": "false"}, 64),
        ({"ignore": "0"}, 64),
        ({"iscrowd": [], "ignore": {}}, 64),
        ({"image_id": "1", "category_id": "1"}, 64),
        ({"image_id": 1.0, "category_id": 1.0}, 64),
        ({"bbox": list(map(str, BOX)), "area": "64"}, 64),
        ({"bbox": ...}, 64),
        ({"area": 0}, 64),
        # The box trains, no mask does: for masks the object is ignored.
        ({"segmentation": [SQUARE[:7]]}, None),
        ({"segmentation": [[*SQUARE, 4]]}, None),
        ({"segmentation": [[1, 1, 5, 5, 9, 9]]}, None),
        ({"segmentation": [[30, 4, 40, 4, 40, 12]]}, None),
        ({"segmentation": [[18, -8, 30, -8, 30, 4, 29, 4, 29, -7, 18, -7]]}, None),  # its bounding box is inside
        ({"segmentation": {"size": [20, 20], "counts": [400]}}, None),
        ({"segmentation": {"size": [10, 40], "counts": [0, 400]}}, None),
        ({"segmentation": [[5.1, 4, 5.3, 4, 5.3, 12, 5.1, 12]]}, None),  # between the centres of pixels
        ({"segmentation": [[*SQUARE, *SQUARE]]}, None),  # drawn twice: the outlines cancel out
        ({"segmentation": []}, None),
        ({"segmentation": ...}, None),
    ],
)
def test_a_perfect_result_scores_one(image_dir, annotation, pixels):
    trained, scored, box_ap, mask_ap = perfect_ap(content_of(annotation), image_dir)
    assert trained == scored == (pixels or 0)
    assert box_ap == pytest.approx(1.0)
    assert mask_ap == pytest.approx(1.0 if pixels else -1.0)


@pytest.mark.parametrize(
    ("annotation", "honor_ignore"),
    [
        ({"bbox": [4, 4, 0, 8]}, False),
        ({"bbox": [4, 4, -8, 8]}, False),
        ({"bbox": [30, 4, 8, 8]}, False),
        ({"bbox": ..., "segmentation": ...}, False),
        ({"iscrowd": "1"}, False),
        ({"iscrowd": "true"}, False),
        ({"iscrowd": True}, False),
        ({"ignore": 1}, True),
        ({"ignore": "1"}, True),
    ],
)
def test_what_does_not_train_does_not_have_to_be_found(image_dir, annotation, honor_ignore):
    content = content_of(annotation, {"bbox": [0, 0, 3, 3], "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]})
    dataset = opened(content, image_dir)
    assert dataset.instances(0).annotation_ids == [2]
    for annotations in (dataset, content):
        evaluator = CocoEvaluator(annotations, honor_ignore=honor_ignore)
        add_what_is_trained(evaluator, dataset)
        stats = evaluator.evaluate().stats
        assert stats["bbox"]["AR100"] == stats["segm"]["AR100"] == pytest.approx(1.0)
        assert stats["bbox"]["AP"] == stats["segm"]["AP"] == pytest.approx(1.0)


def test_ignore_is_required_without_honor_ignore_as_in_pycocotools(image_dir):
    content = content_of({"ignore": 1}, {"bbox": [0, 0, 3, 3], "segmentation": [[0, 0, 3, 0, 3, 3, 0, 3]]})
    evaluator = CocoEvaluator(content)
    add_what_is_trained(evaluator, opened(content, image_dir))
    assert evaluator.evaluate().stats["bbox"]["AR100"] == pytest.approx(0.5)


def test_an_area_that_is_none_decides_no_size(image_dir):
    # 200 x 200 px are large, whatever the file says.
    image = [{"id": 1, "file_name": "1.png", "height": 300, "width": 300}]
    box = {"bbox": [10, 10, 200, 200], "segmentation": [[10, 10, 210, 10, 210, 210, 10, 210]]}
    for area in (0, -5, "none", None, ...):
        truth = load_ground_truth(content_of({**box, "area": area}, images=image))
        assert truth.areas.tolist() == [40_000]
    truth = load_ground_truth(content_of({**box, "area": 0, "segmentation": []}, images=image))
    assert truth.areas.tolist() == [40_000]
    truth = load_ground_truth(content_of({**box, "area": 7}, images=image))
    assert truth.areas.tolist() == [7]


def test_boxes_are_scored_as_in_the_file(image_dir):
    box = [0.1, -3.3, 30.7, 9.9]  # sticks out, and float32 would round it
    content = content_of({"bbox": box})
    assert load_ground_truth(content).boxes.tolist() == [box]
    assert load_ground_truth(opened(content, image_dir)).boxes.tolist() == [box]
    np.testing.assert_allclose(opened(content, image_dir).instances(0).boxes, [[0.1, 0, 20, 6.6]], rtol=1e-6)


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_a_region_to_ignore_ends_with_the_image(image_dir, backend):
    # Rasterised at its full size, its outline of 4e12 pixels would take all memory.
    content = content_of({"bbox": [-1e12, -5, 2e12, 1e12], "segmentation": []})
    evaluator = CocoEvaluator(content, backend=backend)
    assert evaluator.ground_truth.boxes.tolist() == [[-1e12, -5, 2e12, 1e12]]
    add_what_is_trained(evaluator, opened(content, image_dir))
    assert evaluator.evaluate().stats["segm"]["AP"] == -1
    assert outcomes(evaluator).det_kinds.tolist() == [IGNORED]


def test_the_box_of_a_mask_is_the_one_that_trains(image_dir):
    outline = [[4.5, 4.25, 12, 4.25, 12, 12, 4.5, 12]]
    content = content_of({"bbox": ..., "segmentation": outline})
    assert load_ground_truth(content).boxes.tolist() == [[4.5, 4.25, 7.5, 7.75]]
    assert opened(content, image_dir).instances(0).boxes.tolist() == [[4.5, 4.25, 12, 12]]


def test_a_file_name_with_a_backslash_is_the_same_file_for_both(image_dir):
    images = [{"id": 1, "file_name": "sub\\1.png", "height": 20, "width": 20}]
    content = content_of({}, images=images)
    assert opened(content, image_dir).file_names == ["sub/1.png"]
    for annotations in (content, opened(content, image_dir)):
        assert load_ground_truth(annotations).file_names == ("sub/1.png",)


def test_an_open_data_set_needs_no_file_any_more(image_dir, tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content_of({})))
    for cache_dir in (None, tmp_path / "cache"):
        path.write_text(json.dumps(content_of({})))
        dataset = CocoDataset.open(path, image_dir, cache_dir=cache_dir)
        path.unlink()
        for _ in range(2):
            evaluator = CocoEvaluator(dataset)
            add_what_is_trained(evaluator, dataset)
            assert evaluator.evaluate().stats["segm"]["AP"] == pytest.approx(1.0)


def test_segmentations_are_decoded_once_for_all_evaluations(image_dir, monkeypatch):
    dataset = opened(content_of({}), image_dir)
    first = CocoEvaluator(dataset).ground_truth
    monkeypatch.setattr(
        "mrcnn_data.annotations.scoring.decode_segmentation", lambda *_, **__: pytest.fail("decoded again")
    )
    assert CocoEvaluator(dataset).ground_truth.segmentations is first.segmentations
    assert isinstance(first, GroundTruth)
    assert load_ground_truth(first) is first


def test_several_files_with_one_image_id(image_dir, tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps(content_of({})))
    dataset = CocoDataset.open([tmp_path / "a.json", tmp_path / "b.json"], [image_dir, image_dir])
    with pytest.raises(GroundTruthError, match=r"image id 1 is used twice in .*a\.json \+ .*b\.json: score these"):
        CocoEvaluator(dataset)


def test_no_image_file_is_needed_for_a_file(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content_of({}, images=[{"id": 1, "height": 20, "width": 20}])))
    truth = load_ground_truth(path)
    assert truth.file_names == (None,)
    assert truth.image_dir is None
    assert int(to_mask(truth.segmentations[0], size=SIZE).sum()) == 64


def test_sizes_that_a_file_lacks(tmp_path):
    rle = {"size": [20, 20], "counts": RUNS}
    nowhere = [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png", "width": -1, "height": 0}]
    content = content_of({"segmentation": rle}, {"image_id": 2, "segmentation": ...}, images=nowhere)
    truth = load_ground_truth(content)
    assert truth.image_sizes.tolist() == [[20, 20], [0, 0]]
    assert truth.segmentations[0]["size"] == [20, 20]
    assert truth.segmentations[1] is None
    polygons = content_of({"image_id": 2}, images=nowhere)
    with pytest.raises(GroundTruthError, match="image 2 has no width and height, which polygons need"):
        load_ground_truth(polygons)
    assert load_ground_truth(polygons, image_sizes={2: (20, 20)}).image_sizes.tolist() == [[0, 0], [20, 20]]


def test_ids_of_numpy_and_as_text_are_added_and_serialise(image_dir):
    dataset = opened(content_of({}), image_dir)
    for image_id in (np.int64(1), np.int32(1), "1", 1.0):
        evaluator = CocoEvaluator(dataset)
        evaluator.add(image_id, np.array([[4, 4, 12, 12]]), np.array([0.5]), np.array([1]))
        assert json.loads(json.dumps(evaluator.results()))[0]["image_id"] == 1
        assert list(evaluator.image_results) == [1]


numbers = st.one_of(st.integers(-5, 25), st.floats(-30, 50, width=16), st.sampled_from([float("nan"), 1e9, "7", "x"]))
odd = st.one_of(st.none(), st.text(max_size=2), st.booleans(), st.integers(-2, 9), st.sampled_from([[], {}, [[]]]))
slivers = st.lists(st.floats(4, 6), min_size=6, max_size=6)
parts = st.one_of(st.just(SQUARE), st.lists(numbers, max_size=10), slivers, odd)
counts = st.one_of(st.just(RUNS), st.just([400]), st.just([0, 400.0]), st.lists(numbers, max_size=4), odd)
segmentations = st.one_of(
    st.lists(parts, max_size=3),
    st.lists(numbers, max_size=8),
    st.fixed_dictionaries({"size": st.sampled_from([[20, 20], ["20", 20.0], [10, 40], None]), "counts": counts}),
    odd,
)
flags = st.sampled_from([0, 0, 0, 1, "0", "1", "false", "true", None, [], 0.0, True])
annotations = st.fixed_dictionaries(
    {"segmentation": segmentations},
    optional={
        "bbox": st.one_of(st.lists(numbers, min_size=4, max_size=4), odd),
        "iscrowd": flags,
        "ignore": flags,
        "id": odd,
        "area": st.one_of(numbers, odd),
        "image_id": st.sampled_from([1, 2, "1", "2", 2.0, "zwei"]),
        "category_id": st.sampled_from([1, 5, "5", 1.0]),
    },
)
IMAGE_IDS = st.sampled_from([(1, 2), ("1", "2"), (1, "2"), ("01", 2), ("1", "zwei")])


@given(st.lists(annotations, max_size=4), IMAGE_IDS)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_objects_with_the_same_masks(image_dir, faulty, image_ids):
    images = [{"id": each, "file_name": f"{n}.png", "height": 20, "width": 20} for n, each in enumerate(image_ids, 1)]
    content = content_of(*faulty, images=images, categories=[{"id": 5, "name": "five"}, {"id": "1", "name": "one"}])
    try:
        dataset = opened(content, image_dir)
    except DatasetError as error:
        if "occurs twice" not in str(error):  # of annotations: no harm for scoring
            with pytest.raises(GroundTruthError):
                load_ground_truth(content)
        return
    for annotations in (dataset, content, json.loads(json.dumps(content))):
        truth = load_ground_truth(annotations)
        for index, image_id in enumerate(dataset.image_ids):
            of_image = truth.image_indices == truth.image_ids.index(image_id)
            required = np.flatnonzero(of_image & ~truth.crowd & ~truth.ignored)
            assert_same(dataset, index, truth, required)
            regions = np.flatnonzero(of_image & (truth.crowd | truth.ignored))
            assert len(regions) == len(dataset.instances(index).crowd_boxes)


def assert_same(dataset, index, truth, rows):
    instances = dataset.instances(index)
    np.testing.assert_array_equal(truth.category_indices[rows] + 1, instances.classes)
    corners = np.concatenate([truth.boxes[rows, :2], truth.boxes[rows, :2] + truth.boxes[rows, 2:]], axis=1)
    np.testing.assert_array_equal(np.clip(corners, 0, 20).astype(np.float32), instances.boxes)
    assert (truth.areas[rows] > 0).all()
    masks = instance_masks(dataset, index)
    for row, mask, segmentation in zip(rows, masks, instances.segmentations, strict=True):
        assert (segmentation is None) == (truth.segmentations[row] is None)
        if segmentation is not None:
            assert mask.any()
            np.testing.assert_array_equal(to_mask(truth.segmentations[row], size=SIZE), mask)


@given(st.lists(annotations, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_trained_scores_one(image_dir, faulty):
    """Each object alone, so that no other is matched by its detection."""
    for annotation in faulty:
        content = content_of({**annotation, "image_id": 1, "category_id": 1})
        dataset = opened(content, image_dir)
        evaluator = CocoEvaluator(dataset, honor_ignore=True)
        add_what_is_trained(evaluator, dataset)
        stats = evaluator.evaluate().stats
        masks = [one is not None for one in dataset.instances(0).segmentations]
        clipped = len(masks) and not np.allclose(dataset.instances(0).boxes, corners_of(evaluator.ground_truth))
        assert stats["segm"]["AP"] == pytest.approx(1.0 if any(masks) else -1.0)
        assert clipped or stats["bbox"]["AP"] == pytest.approx(1.0 if masks else -1.0)


def corners_of(truth):
    return np.concatenate([truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]], axis=1)


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_a_box_without_mask_on_an_image_of_unknown_size_is_a_region_to_ignore(backend):
    """The masks of the detections say the size; without them there are only boxes to score."""
    images = [{"id": 1}, {"id": 2, "height": 20, "width": 20}]
    content = content_of({"segmentation": ...}, {"image_id": 2}, images=images)
    mask = mask_utils.encode(np.asfortranarray(to_mask([SQUARE], size=SIZE)))
    for rles in (None, [mask]):
        evaluator = CocoEvaluator(content, backend=backend)
        evaluator.add(1, [[4, 4, 12, 12]], [0.9], [1], rles)
        evaluator.add(2, [[4, 4, 12, 12]], [0.8], [1], [mask])
        stats = evaluator.evaluate().stats
        assert (stats["bbox"]["AP"], stats["segm"]["AP"]) == pytest.approx((1, 1))


def test_ids_that_are_text_in_one_of_the_files():
    result = {"category_id": 1, "bbox": BOX, "score": 0.9}
    for in_truth, in_results in ((7, "7"), ("7", 7)):
        images = [{"id": in_truth, "height": 20, "width": 20}]
        evaluator = CocoEvaluator(content_of({"image_id": in_results}, images=images), iou_types=["bbox"])
        evaluator.add_results([{**result, "image_id": in_results}])
        assert evaluator.evaluate().stats["bbox"]["AP"] == pytest.approx(1)


def test_sizes_of_images_by_the_ids_of_the_file():
    """Beside an id that is a number, text is read as the number."""
    truth = load_ground_truth(
        content_of({"image_id": "7"}, images=[{"id": "7"}, {"id": 8}]), image_sizes={"7": SIZE, 8: SIZE}
    )
    assert truth.image_ids == (7, 8)
    assert truth.image_sizes.tolist() == [list(SIZE)] * 2
