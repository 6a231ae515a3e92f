"""Both backends against pycocotools itself, on random scenes and on the official demo results: equal to 1e-9."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from mrcnn_data import CocoDataset
from mrcnn_eval import CocoEvaluator, bootstrap_ap

# The boundaries of pycocotools' size classes, both ends inclusive.
SEED_WITH_ALL_CLASSES = 5  # every class has results
BOUNDARY_AREAS = (32**2, 96**2, 32**2 - 1e-9, 96**2 + 1e-9, 1e-9)  # 0 is no area: see test_same_objects


def random_box(rng, size):
    # Multiples of 4 make equal IoUs, and with the scores below equal everything, common.
    x, y = rng.integers(0, size - 4, 2) // 4 * 4
    w, h = rng.integers(1, (size - x) // 4 + 1) * 4, rng.integers(1, (size - y) // 4 + 1) * 4
    return [float(x), float(y), float(w), float(h)]


def jittered(box, rng, size):
    x, y, w, h = box
    x, y = (float(np.clip(value + rng.integers(-1, 2) * 2, 0, size - 4)) for value in (x, y))
    return [x, y, min(w, size - x), min(h, size - y)]


def random_truth(rng, example, image, size):
    box = random_box(rng, size)
    crowd = int(rng.random() < 0.2)
    polygon = [[box[0], box[1], box[0] + box[2], box[1] + 1.5, box[0] + box[2] / 3, box[1] + box[3]]]
    segmentation = (polygon, example.polygon(box), example.box_rle(box))[rng.integers(3)]
    area = float(rng.choice(BOUNDARY_AREAS)) if rng.random() < 0.3 else box[2] * box[3]
    example.truth(
        box,
        image=image,
        category=int(rng.choice((2, 5, 9))),
        iscrowd=crowd,
        area=area,
        ignore=int(rng.random() < 0.1),
        segmentation=segmentation,
    )
    return box


def random_scene(scene, seed):
    """Empty images, crowds, ties, duplicates, misses, wrong classes; masks as polygons and both kinds of RLE."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice((64, 160)))
    example = scene(images=int(rng.integers(1, 6)), size=(size, size), categories=(9, 2, 5, 11))
    for image in range(1, len(example.annotations["images"]) + 1):
        boxes = [random_truth(rng, example, image, size) for _ in range(rng.integers(0, 7))]
        for box in [*boxes, *boxes[::2], *(random_box(rng, size) for _ in range(rng.integers(0, 4)))]:
            if rng.random() < 0.8:
                category = int(rng.choice((2, 5, 9, 11)))
                score = float(rng.integers(0, 5) / 4)
                example.detection(jittered(box, rng, size), image=image, category=category, score=score)
    return example


MEASURES = st.fixed_dictionaries(
    {},
    optional={
        "max_dets": st.sampled_from([1, 2, 10, 11, 100, 300]),
        "iou_thresholds": st.sets(st.sampled_from([0.05, 0.3, 0.5, 0.6, 0.75, 0.9, 1.0]), min_size=1).map(sorted),
        # Ends that areas of the scenes hit exactly; one that holds all, one that holds a single area.
        "area_ranges": st.lists(
            st.sampled_from([(0, 16**2), (16**2, 32**2), (32**2, 96**2), (0, 1e5**2), (64, 64), (96**2, 1e5**2)]),
            max_size=4,
            unique=True,
        ),
    },
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), measures=MEASURES)
def test_random_scenes_and_measures(scene, reference_stats, seed, measures):
    example = random_scene(scene, seed)
    options = dict(measures)
    if "area_ranges" in options:
        options["area_ranges"] = {f"size {number}": ends for number, ends in enumerate(options["area_ranges"])}
    for iou_type in ("bbox", "segm"):
        if example.results:
            annotations = copy.deepcopy(example.annotations)
            expected = reference_stats(annotations, example.results, iou_type, **measures)
        else:  # pycocotools cannot load an empty list; nothing found is 0 where there is something to find
            expected = None
        for backend in ("hotcoco", "pycocotools"):
            evaluator = CocoEvaluator(example.annotations, backend=backend, iou_types=[iou_type], **options)
            evaluator.add_results(example.results)
            stats = list(evaluator.evaluate().stats[iou_type].values())
            if expected is None:
                assert set(stats) <= {0.0, -1.0}
            else:
                assert stats == pytest.approx(expected, abs=1e-9)


def random_mask(rng, size, *, kind):
    """A mask that is not a rectangle: noise, a few runs, or all pixels."""
    if kind == "noise":
        return rng.random((size, size)) < rng.random()
    if kind == "blob":
        y, x = np.mgrid[:size, :size] - rng.uniform(0, size, (2, 1, 1))
        return (x / rng.uniform(1, size)) ** 2 + (y / rng.uniform(1, size)) ** 2 < 1
    return np.full((size, size), kind == "full")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_random_bitmaps(scene, reference_stats, seed):
    rng = np.random.default_rng(seed)
    size = int(rng.choice((7, 31, 64)))
    example = scene(images=2, size=(size, size))
    for _ in range(rng.integers(1, 9)):
        mask = random_mask(rng, size, kind=rng.choice(("noise", "blob", "full")))
        mask[0, 0] |= not mask.any()  # pycocotools requires empty masks, which cannot be found
        truth, found = mask, mask ^ (rng.random((size, size)) < rng.choice((0, 0.1, 0.4)))
        box, image = random_box(rng, size), int(rng.integers(1, 3))
        crowd = int(rng.random() < 0.3)
        example.truth(box, image=image, area=int(truth.sum()), iscrowd=crowd, segmentation=example.rle(truth))
        example.detection(box, image=image, score=float(rng.integers(3) / 2), segmentation=example.rle(found))
    expected = reference_stats(copy.deepcopy(example.annotations), example.results, "segm")
    for backend in ("hotcoco", "pycocotools"):
        evaluator = CocoEvaluator(example.annotations, backend=backend, iou_types=["segm"])
        evaluator.add_results(example.results)
        assert list(evaluator.evaluate().stats["segm"].values()) == pytest.approx(expected, abs=1e-9)


def test_per_class_numbers_equal_a_pycocotools_run_on_that_class_alone(scene, reference_stats):
    example = random_scene(scene, SEED_WITH_ALL_CLASSES)
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    per_class = evaluator.evaluate().per_class
    for category in example.annotations["categories"]:
        alone = copy.deepcopy(example.annotations)
        alone["categories"] = [category]
        alone["annotations"] = [a for a in alone["annotations"] if a["category_id"] == category["id"]]
        results = [entry for entry in example.results if entry["category_id"] == category["id"]]
        assert results
        for iou_type in ("bbox", "segm"):
            expected = reference_stats(copy.deepcopy(alone), results, iou_type)
            assert list(per_class[iou_type][category["name"]].values()) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize(("iou_type", "name"), [("bbox", "fakebbox100"), ("segm", "fakesegm100")])
def test_official_demo_results(shared_data, backend, iou_type, name):
    folder = shared_data / "eval_cocoapi_val2014_100"
    reference = json.loads((folder / "results/pycocotools_reference.json").read_text())
    evaluator = CocoEvaluator(folder / "annotations/instances_val2014_100.json", backend=backend, iou_types=[iou_type])
    evaluator.add_results(json.loads((folder / f"results/instances_val2014_{name}_results.json").read_text()))
    stats = evaluator.evaluate().stats[iou_type]
    assert list(stats.values()) == pytest.approx(reference[f"{iou_type}:instances_val2014_{name}"], abs=1e-9)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("opened", [False, True])
def test_coco_open(shared_data, reference_stats, split, opened):
    """Detections near the objects of real COCO images, crowds included, from the file and from the open data set."""
    path = shared_data / "coco_open" / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    rng = np.random.default_rng(0)
    results = []
    for annotation in content["annotations"]:
        (h, w), box = sizes[annotation["image_id"]], np.array(annotation["bbox"])
        for _ in range(rng.integers(0, 3)):
            x, y, width, height = box + rng.normal(0, 0.1, 4) * np.tile(box[2:], 2)
            mask = np.zeros((h, w), np.uint8, order="F")
            mask[max(round(y), 0) : round(y + height), max(round(x), 0) : round(x + width)] = 1
            rle = mask_utils.encode(mask)
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            entry = {"image_id": annotation["image_id"], "category_id": annotation["category_id"]}
            results.append(
                {**entry, "bbox": [x, y, width, height], "score": rng.random(), "segmentation": segmentation}
            )
    truth = CocoDataset.open(path, shared_data / "coco_open" / split) if opened else path
    evaluator = CocoEvaluator(truth, backend="hotcoco")
    evaluator.add_results(results)
    stats = evaluator.evaluate().stats
    for iou_type in ("bbox", "segm"):
        expected = reference_stats(copy.deepcopy(content), results, iou_type)
        assert 0.05 < expected[0] < 1
        assert list(stats[iou_type].values()) == pytest.approx(expected, abs=1e-9)


class EachOnce:
    """A random generator that draws each image once."""

    def integers(self, high: int, *, size: int) -> np.ndarray:
        return np.arange(high)[:size]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [*range(4), SEED_WITH_ALL_CLASSES])
def test_drawing_each_image_once_is_the_evaluation(scene, monkeypatch, seed: int, iou_type: str) -> None:
    example = random_scene(scene, seed)
    evaluator = CocoEvaluator(example.annotations)
    evaluator.add_results(example.results)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: EachOnce())
    ap = evaluator.evaluate().stats[iou_type]["AP"]
    expected = [ap] * 2 if ap >= 0 else []
    assert bootstrap_ap(evaluator, iou_type, samples=2).tolist() == pytest.approx(expected, abs=1e-9)
