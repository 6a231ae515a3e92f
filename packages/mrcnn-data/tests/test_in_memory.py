"""Datasets made from dicts, without an annotation file."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_data import CocoDataset, DatasetError, check_datasets, instance_masks, scoring_summary

IMAGE = np.full((40, 50, 3), 90, np.uint8)
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
IMAGES = [{"id": 1, "file_name": "1.png", "height": 40, "width": 50}]
CATEGORIES = [{"id": 3, "name": "three"}]
OBJECT = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 10, 10], "segmentation": SQUARE}


@pytest.fixture
def image_dir(write_coco):
    return write_coco([IMAGE], []) / "train"


def made(image_dir, *, images=IMAGES, annotations=(), categories=CATEGORIES, **options):
    return CocoDataset.from_dicts(
        images=images, annotations=annotations, categories=categories, image_dir=image_dir, **options
    )


def test_the_lists_of_a_file(image_dir):
    dataset = made(image_dir, annotations=[OBJECT])
    assert dataset.image_ids == [1]
    assert dataset.class_names == ("three",)
    assert int(instance_masks(dataset, 0).sum()) == 100
    np.testing.assert_array_equal(dataset.read_image(0), IMAGE)


def test_pictures_without_annotations(image_dir):
    dataset = made(image_dir, annotations=[])
    assert dataset.num_objects().tolist() == [0]


def test_numpy_values_and_run_lengths_as_bytes(image_dir):
    mask = np.zeros((40, 50), np.uint8, order="F")
    mask[10:20, 10:20] = 1
    entry = {
        **OBJECT,
        "id": np.int64(7),
        "bbox": np.array([10.0, 10, 10, 10], np.float32),
        "area": float("nan"),
        "segmentation": coco_mask.encode(mask),  # counts are bytes
    }
    dataset = made(image_dir, annotations=[entry])
    assert dataset.instances(0).annotation_ids == [7]
    np.testing.assert_array_equal(instance_masks(dataset, 0)[0], mask)


def test_what_cannot_be_read_is_one_error(image_dir):
    with pytest.raises(DatasetError, match="annotations in memory: annotation 1 has category 9"):
        made(image_dir, annotations=[{**OBJECT, "category_id": 9}])
    with pytest.raises(DatasetError, match="annotations in memory cannot be read: object is not a JSON type"):
        made(image_dir, annotations=[{**OBJECT, "note": object()}])
    with pytest.raises(DatasetError, match=r"gone\.png: the file of image 1 is missing"):
        made(image_dir, images=[{**IMAGES[0], "file_name": "gone.png"}])


def test_a_check_of_annotations_in_memory_is_not_kept(image_dir, tmp_path):
    def kinds(**fields):
        datasets = {"train": made(image_dir, annotations=[{**OBJECT, "area": 100, "iscrowd": 0, **fields}])}
        report = check_datasets(datasets, cache_dir=tmp_path / "cache")["train"]
        return [finding.kind for finding in report.findings if "category" not in finding.kind]

    assert kinds() == []
    assert kinds(segmentation=[]) == ["segmentation empty", "no object has a mask"]


@pytest.mark.parametrize("segmentation", [SQUARE, ..., None, {"size": [40, 50], "counts": [0, 100, 1900]}])
def test_what_is_scored_stands_beside_what_trains(image_dir, segmentation):
    fields = [{}, {"bbox": [5, 5, 0, 9]}, {"iscrowd": 1}, {"ignore": "1", "bbox": ...}, {"area": -3}]
    entries = [{**OBJECT, "segmentation": segmentation, "id": n, **field} for n, field in enumerate(fields)]
    entries = [{name: value for name, value in entry.items() if value is not ...} for entry in entries]
    dataset = made(image_dir, annotations=entries)
    has_mask = segmentation not in (..., None)
    scored = dataset.scored
    ids = [dataset.annotations.ids[row] for row in scored.rows]
    assert ids == [0, 2, 3, 4] if has_mask else [0, 2, 4]
    assert scored.is_crowd.tolist() == [annotation_id == 2 for annotation_id in ids]
    assert scored.is_ignored.tolist() == [annotation_id == 3 for annotation_id in ids]
    assert [one is not None for one in scored.rles] == [has_mask] * len(ids)
    assert scored.areas.tolist() == [100] * len(ids)
    assert scored.boxes[0].tolist() == [10, 10, 10, 10]
    trained = [annotation_id for annotation_id in ids if annotation_id in (0, 4)]
    assert dataset.instances(0).annotation_ids == trained
    assert scoring_summary(dataset) == (2, 0 if has_mask else 2, 1, int(has_mask), 5 - len(ids))
