"""Statistics by hand, and what is suggested from them."""

import json

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, dataset_statistics
from mrcnn_data.statistics.suggestions import (
    fit_of_anchors,
    padding_share,
    suggest_anchors,
    suggest_buckets,
    suggestions_for,
)
from mrcnn_data.statistics.tables import statistics_record
from mrcnn_data.tools.cli import main

IMAGE = np.full((200, 300, 3), 90, np.uint8)


def square(x, y, edge):
    corners = [x, y, x + edge, y, x + edge, y + edge, x, y + edge]
    return {"bbox": [x, y, edge, edge], "segmentation": [corners]}


ANNOTATIONS = [
    square(5, 5, 31),
    square(5, 5, 32),
    {**square(5, 5, 96), "category_id": 7},
    {**square(5, 5, 40), "segmentation": [[5, 5, 45, 5, 5, 45]], "category_id": 7},  # half a square: 800 px
    {"bbox": [0, 0, 100, 50], "segmentation": [], "image_id": 2},
    {**square(5, 5, 20), "iscrowd": 1},
    {"segmentation": {"size": [200, 300], "counts": [0, 400, 59600]}, "image_id": 2},  # two columns of 200
]


@pytest.fixture
def dataset(write_coco):
    return CocoDataset.from_root(write_coco([IMAGE] * 3, ANNOTATIONS), "train")


def test_by_hand(dataset):
    found = dataset_statistics(dataset)
    three, seven = found.classes
    assert three == (3, "three", 2, 4, 2, 2, 0, 1, 1)  # 31 x 31 and 400 px are small, 32 x 32 and 100 x 50 medium
    assert seven == (7, "seven", 1, 2, 1, 0, 1, 0, 0)
    assert found.objects_per_image.tolist() == [4, 2, 0]
    assert found.box_sizes.tolist() == [[31, 31], [32, 32], [96, 96], [40, 40], [50, 100], [200, 2]]
    np.testing.assert_array_equal(found.mask_areas, [961, 1024, 9216, 800, np.nan, 400])
    doubled = found.resized_box_sizes(short_edge=400, max_size=1000)
    assert doubled[:2].tolist() == [[62, 62], [64, 64]]


def test_a_dataset_without_objects(write_coco):
    found = dataset_statistics(CocoDataset.from_root(write_coco([IMAGE], []), "train"))
    assert [one.objects for one in found.classes] == [0, 0]
    suggestions = suggestions_for(found, short_edge=200, max_size=300)
    assert suggestions.anchors is None
    assert suggestions.buckets == [(224, 320)]
    assert statistics_record(found, suggestions)["percentiles"]["box sqrt(area)"] == {}


def test_buckets_by_hand():
    sizes = np.array([[800, 1200]] * 5 + [[1200, 800]] + [[800, 800]] * 3 + [[800, 1190]])
    assert suggest_buckets(sizes, aspect_classes=2) == [(800, 800), (800, 1216), (1216, 800)]
    assert suggest_buckets(sizes, aspect_classes=1) == [(800, 1216), (1216, 800)]
    assert padding_share(np.array([[800, 800]]), [(800, 1600)]) == 0.5


@pytest.mark.parametrize("aspect_classes", [1, 2, 3, 10])
def test_buckets_hold_all_images_and_more_of_them_pad_less(aspect_classes):
    sizes = np.random.default_rng(0).integers(20, 400, (50, 2))
    buckets = suggest_buckets(sizes, aspect_classes=aspect_classes)
    assert len({tuple(sorted(bucket)) for bucket in buckets}) <= aspect_classes
    assert all(edge % 32 == 0 for bucket in buckets for edge in bucket)
    wasted = padding_share(sizes, buckets)  # raises where one does not fit
    assert wasted >= padding_share(sizes, suggest_buckets(sizes, aspect_classes=aspect_classes + 1))


def test_fit_of_anchors_by_hand():
    boxes = np.array([[10.0, 10.0], [20.0, 20.0], [10.0, 40.0]])
    fit = fit_of_anchors(boxes, sizes=[10, 20], ratios=[1.0, 0.25])
    assert fit.share_matched == 1.0
    assert fit.mean_iou == pytest.approx(1.0)
    only_small = fit_of_anchors(boxes, sizes=[10], ratios=[1.0])
    assert only_small.mean_iou == pytest.approx((1 + 1 / 4 + 1 / 4) / 3)
    assert only_small.share_matched == pytest.approx(1 / 3)


def test_anchors_follow_the_objects():
    rng = np.random.default_rng(0)
    edges = rng.choice([24, 48, 96, 192, 384], 400) * rng.uniform(0.95, 1.05, 400)
    slim = np.stack([edges * 2, edges / 2], axis=1)  # four times as high as wide
    assert suggest_anchors(np.stack([edges, edges], axis=1)).sizes == (24, 48, 96, 192, 384)
    found = suggest_anchors(np.concatenate([slim, slim[:, ::-1] * 1.01, np.stack([edges, edges], axis=1)]))
    assert found.sizes == (24, 48, 96, 192, 384)
    assert found.ratios == (0.25, 1.0, 4.0)
    assert found.share_matched == 1.0


def test_many_objects_are_thinned_out():
    boxes = np.random.default_rng(0).uniform(10, 500, (50_000, 2))
    few = fit_of_anchors(boxes[::3], sizes=[64, 128], ratios=[1.0])
    assert fit_of_anchors(boxes, sizes=[64, 128], ratios=[1.0]).mean_iou == few.mean_iou


def test_command(write_coco, tmp_path, capsys):
    root = str(write_coco([IMAGE] * 3, ANNOTATIONS))
    png, numbers = tmp_path / "out.png", tmp_path / "out.json"
    options = ["--short-edge", "200", "--max-size", "300", "--png", str(png), "--json", str(numbers)]
    assert main(["stats", root, "train", *options]) == 0
    output = capsys.readouterr().out
    assert "3 images, 6 objects" in output
    assert "'data.buckets=[[224,320]]'" in output
    assert "'model.anchor_sizes=[" in output
    picture = cv2.imread(str(png))
    assert min(picture.shape[:2]) > 500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    record = json.loads(numbers.read_text())
    assert record["classes"][0]["objects"] == 4
    assert record["percentiles"]["objects per image"]["50"] == 2
    assert record["suggestions"]["canvases"] == [[224, 320]]


def test_names_are_whole_in_a_narrow_terminal(write_coco, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ["parking meter", "Q" * 30]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=900)]
    assert main(["stats", str(write_coco([IMAGE], [], categories=categories)), "train"]) == 0
    out = capsys.readouterr().out
    assert "parking meter" in out
    assert out.count("Q") == 30  # in as many lines as it takes


def test_command_without_objects_and_with_options_that_cannot_work(write_coco, tmp_path, capsys):
    root = str(write_coco([IMAGE], []))
    assert main(["stats", root, "train", "--png", str(tmp_path / "out.png")]) == 0
    assert "anchor" not in capsys.readouterr().out
    assert main(["stats", root, "train", "--short-edge", "0"]) == 2
    assert capsys.readouterr().err == "mrcnn-data: --short-edge=0 must be at least 1\n"
