"""Opening files: what is used, what is reported, what is refused."""

import json
import re

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_data import CocoDataset, DatasetError, instance_masks

IMAGE = np.full((40, 50, 3), 90, np.uint8)
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
GOOD = {"bbox": [10, 10, 10, 10], "segmentation": SQUARE}


def opened(root):
    return CocoDataset.from_root(root, "train")


def error_of(root, split="train"):
    with pytest.raises(DatasetError) as caught:
        CocoDataset.from_root(root, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


def edited(root, edit):
    """Change the annotation file in place."""
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return root


def test_a_small_dataset_by_hand(write_coco):
    root = write_coco([IMAGE, IMAGE[:, :30]], [{**GOOD, "category_id": 7}, {**GOOD, "image_id": 2}])
    dataset = opened(root)
    assert len(dataset) == 2
    assert dataset.image_ids == [1, 2]
    assert dataset.file_names == ["1.png", "2.png"]
    assert dataset.category_ids == (3, 7)
    assert dataset.class_names == ("three", "seven")
    assert dataset.num_classes == 3
    assert dataset.image_dir == root / "train"
    assert dataset.annotation_path == root / "annotations" / "instances_train.json"
    np.testing.assert_array_equal(dataset.image_sizes, [[40, 50], [40, 30]])
    np.testing.assert_array_equal(dataset.num_objects(), [1, 1])
    first = dataset.instances(0)
    np.testing.assert_array_equal(first.boxes, [[10, 10, 20, 20]])
    assert first.classes.tolist() == [2]
    assert first.annotation_ids == [1]
    assert first.crowd_boxes.shape == (0, 4)
    assert instance_masks(dataset, 0).sum() == 100
    np.testing.assert_array_equal(dataset.read_image(1), IMAGE[:, :30])
    assert not dataset.report.findings
    assert str(dataset.report) == "nothing odd found"


def test_annotations_follow_their_image_whatever_their_order(write_coco):
    annotations = [{**GOOD, "image_id": image, "id": 100 + number} for number, image in enumerate([2, 1, 3, 1, 2])]
    dataset = opened(write_coco([IMAGE] * 3, annotations))
    assert [dataset.instances(index).annotation_ids for index in range(3)] == [[101, 103], [100, 104], [102]]


def test_the_middle_one_of_three_is_bad(write_coco):
    bad = {"bbox": [5, 5, 0, 10], "segmentation": SQUARE}
    dataset = opened(write_coco([IMAGE], [GOOD, bad, {**GOOD, "category_id": 7}]))
    instances = dataset.instances(0)
    assert instances.annotation_ids == [1, 3]
    assert instances.classes.tolist() == [1, 2]
    assert len(instances.boxes) == len(instances.segmentations) == 2
    assert dataset.report.count("box of zero or negative size") == 1
    assert dataset.report.findings[0].examples == ["annotation 2"]


@pytest.mark.parametrize(
    ("bbox", "expected", "kind"),
    [
        ([5, 5, 0, 10], None, "box of zero or negative size"),
        ([5, 5, -3, 4], None, "box of zero or negative size"),
        ([60, 10, 20, 10], None, "box outside the image"),
        ([45, 10, 20, 10], [45, 10, 50, 20], "box sticks out of the image"),
        ([-9, -9, 70, 70], [0, 0, 50, 40], "box sticks out of the image"),
        ([1e308, 0, 1e308, 9], [10, 10, 20, 20], "bbox is not four finite numbers"),
        ([None, 1, 2, 3], [10, 10, 20, 20], "bbox is not four finite numbers"),
        ([], [10, 10, 20, 20], "bbox missing"),
        ([1, 2, 3], [10, 10, 20, 20], "bbox missing"),
        (None, [10, 10, 20, 20], "bbox missing"),
        (..., [10, 10, 20, 20], "bbox missing"),
    ],
)
def test_boxes(write_coco, bbox, expected, kind):
    dataset = opened(write_coco([IMAGE], [{"bbox": bbox, "segmentation": SQUARE}]))
    np.testing.assert_allclose(dataset.instances(0).boxes, np.reshape([] if expected is None else expected, (-1, 4)))
    assert dataset.report.count(kind) == 1


def test_a_box_just_over_the_border_is_rounding(write_coco):
    dataset = opened(write_coco([IMAGE], [{"bbox": [40, 30, 10.4, 10.4], "segmentation": SQUARE}]))
    np.testing.assert_array_equal(dataset.instances(0).boxes, [[40, 30, 50, 40]])
    assert dataset.report.count("box sticks out of the image") == 0


@pytest.mark.parametrize(
    "segmentation",
    [..., None, [], [[1, 2, 3, 4]], [[60, 1, 70, 1, 70, 9]], {"size": [9, 9], "counts": [81]}],
)
def test_without_bbox_and_segmentation_nothing_is_left(write_coco, segmentation):
    dataset = opened(write_coco([IMAGE], [{"segmentation": segmentation}]))
    assert dataset.instances(0).boxes.shape == (0, 4)
    assert dataset.instances(0).classes.shape == (0,)
    assert instance_masks(dataset, 0).shape == (0, 40, 50)
    assert dataset.report.count("bbox missing, and no segmentation to take it from") == 1


def test_the_box_of_a_polygon_over_the_border_is_that_of_its_part_inside(write_coco):
    square = [[-5, -5, 20, -5, 20, 20, -5, 20]]
    dataset = opened(write_coco([IMAGE], [{"segmentation": square}]))
    np.testing.assert_array_equal(dataset.instances(0).boxes, [[0, 0, 20, 20]])
    assert instance_masks(dataset, 0).sum() == 400


def test_polygons_and_run_lengths_in_one_file(write_coco):
    """The same square three times, as three tools write it; it is never a crowd."""
    mask = np.zeros((40, 50), np.uint8, order="F")
    mask[10:20, 10:20] = 1
    compressed = coco_mask.encode(mask)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, mask.ravel(order="F"), 0]))).tolist()
    uncompressed = {"size": [40, 50], "counts": [10 * 40 + 10, *runs, 30 * 40 + 20]}
    segmentations = [SQUARE, {**compressed, "counts": compressed["counts"].decode()}, uncompressed]
    dataset = opened(write_coco([IMAGE], [{"segmentation": one} for one in segmentations]))
    np.testing.assert_array_equal(instance_masks(dataset, 0), [mask] * 3)
    np.testing.assert_array_equal(dataset.instances(0).boxes, [[10, 10, 20, 20]] * 3)


@pytest.mark.parametrize("parts", [[[0, 0, 5, 5], *SQUARE], [*SQUARE, [0, 0, 5, 5]]])
def test_a_part_of_four_numbers_is_dropped_and_its_annotation_named(write_coco, parts):
    dataset = opened(write_coco([IMAGE], [GOOD, {**GOOD, "segmentation": parts}]))
    np.testing.assert_array_equal(instance_masks(dataset, 0).sum(axis=(1, 2)), [100, 100])
    (finding,) = dataset.report.findings
    assert (finding.kind, finding.examples) == ("polygon part with fewer than 6 numbers", ["annotation 2"])
    assert finding.severity == "dropped"


def test_classes_are_counted_over_the_ids_there_are(write_coco):
    """COCO has no category 12: id 13 is the class after that of 11."""
    categories = [{"id": number, "name": str(number)} for number in (13, 11, 90)]
    annotations = [{**GOOD, "category_id": category_id} for category_id in (11, 13, 90)]
    dataset = opened(write_coco([IMAGE], annotations, categories=categories))
    assert dataset.category_ids == (11, 13, 90)
    assert dataset.instances(0).classes.tolist() == [1, 2, 3]


def test_unusable_segmentation_leaves_a_box(write_coco):
    dataset = opened(write_coco([IMAGE], [{**GOOD, "segmentation": []}, GOOD]))
    assert [one is None for one in dataset.instances(0).segmentations] == [True, False]
    assert dataset.report.count("segmentation empty") == 1
    assert dataset.report.findings[0].severity == "repaired"


def test_nan_as_python_writes_it(write_coco):
    name = 'NaN "Infinity" -Infinity\\'
    annotations = [{**GOOD, "segmentation": [[float("nan"), 1, 9, 1, 9, 9], *SQUARE], "note": name}]
    root = write_coco([IMAGE], annotations, categories=[{"id": 3, "name": name}])
    assert "NaN" in (root / "annotations" / "instances_train.json").read_text()
    dataset = opened(root)
    assert dataset.class_names == (name,)
    assert instance_masks(dataset, 0).sum() == 100
    assert dataset.report.count("polygon part with a coordinate that is not a finite number") == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark(write_coco, encoding):
    root = write_coco([IMAGE], [GOOD])
    path = root / "annotations" / "instances_train.json"
    path.write_text(path.read_text(), encoding=encoding)
    assert len(opened(root)) == 1


def test_crowd_and_ignored_are_regions(write_coco):
    crowd = {"bbox": [0, 0, 9, 9], "segmentation": {"size": [40, 50], "counts": [0, 2000]}, "iscrowd": 1}
    annotations = [crowd, {**GOOD, "ignore": 1}, {**GOOD, "iscrowd": ...}, {**GOOD, "iscrowd": None, "ignore": 0}]
    dataset = opened(write_coco([IMAGE], annotations))
    instances = dataset.instances(0)
    assert instances.annotation_ids == [3, 4]
    np.testing.assert_array_equal(instances.crowd_boxes, [[0, 0, 9, 9], [10, 10, 20, 20]])
    assert dataset.report.count("iscrowd") == 1
    assert dataset.report.count("ignore") == 1
    assert dataset.num_objects().tolist() == [2]


def test_opening_report_is_what_is_known_without_segmentations(write_coco):
    dataset = opened(write_coco([IMAGE], [{**GOOD, "iscrowd": 1}, {**GOOD, "segmentation": []}]))
    assert str(dataset.opening_report) == (
        "note: 1 x iscrowd (annotation 1): never trained as an object (background unless "
        "model.crowd_overlap_threshold is below 1); detections on it are not counted"
    )
    assert [finding.kind for finding in dataset.report.findings] == ["iscrowd", "segmentation empty"]
    assert len(dataset.opening_report.findings) == 1  # as before the full report


@pytest.mark.parametrize("segmentation", [SQUARE, {"size": [40, 50], "counts": [0, 2000]}])
def test_image_with_only_a_crowd_has_no_objects(write_coco, segmentation):
    dataset = opened(write_coco([IMAGE], [{**GOOD, "segmentation": segmentation, "iscrowd": 1}]))
    assert dataset.num_objects().tolist() == [0]
    assert dataset.instances(0).boxes.shape == (0, 4)


def test_images_without_annotations(write_coco):
    dataset = opened(write_coco([IMAGE, IMAGE], []))
    assert dataset.num_objects().tolist() == [0, 0]
    assert dataset.instances(1).boxes.shape == (0, 4)
    assert dataset.report.count("image without annotations") == 2


def test_annotation_id_zero_and_none_are_labels(write_coco):
    dataset = opened(write_coco([IMAGE], [{**GOOD, "id": 0}, {**GOOD, "id": ...}, {**GOOD, "id": "c"}]))
    assert dataset.instances(0).annotation_ids == [0, None, "c"]
    assert dataset.report.count("annotation without an id") == 1


def test_repeated_annotation_ids_are_an_error(write_coco):
    root = write_coco([IMAGE], [{**GOOD, "id": 7}, {**GOOD, "id": 7}, {**GOOD, "id": 7}])
    assert "annotation id 7 occurs twice, and 1 more" in error_of(root)
    dataset = CocoDataset.from_root(root, "train", allow_errors=True)
    assert dataset.num_objects().tolist() == [3]
    assert dataset.report.count("annotation id that occurs twice") == 2


def test_box_and_segmentation_that_disagree_are_noted(write_coco):
    dataset = opened(write_coco([IMAGE], [{**GOOD, "bbox": [30, 10, 10, 10]}, GOOD]))
    assert dataset.report.count("box and segmentation overlap by less than half") == 1


def test_report_counts_beyond_its_examples(write_coco):
    dataset = opened(write_coco([IMAGE], [{**GOOD, "bbox": [5, 5, 0, 10]}] * 1002))
    (finding,) = (one for one in dataset.report.findings if one.severity == "dropped")
    assert finding.count == 1002
    assert len(finding.examples) == 1000
    shown = ", ".join(f"annotation {number}" for number in range(1, 6))
    assert str(finding) == f"dropped: 1002 x box of zero or negative size ({shown}, ...): not trained, not scored"


@pytest.mark.parametrize("size", [{"width": -1, "height": -1}, {"width": None}, {"height": 0}])
def test_image_sizes_missing_are_read_from_the_file(write_coco, size):
    root = edited(write_coco([IMAGE], [GOOD]), lambda content: content["images"][0].update(size))
    dataset = opened(root)
    np.testing.assert_array_equal(dataset.image_sizes, [[40, 50]])
    assert dataset.report.count("image without width or height") == 1


def test_sub_folders_and_string_ids(write_coco):
    root = write_coco([IMAGE], [{**GOOD, "image_id": "a/1"}])
    (root / "train" / "sub").mkdir()
    (root / "train" / "1.png").rename(root / "train" / "sub" / "1.png")
    edited(root, lambda content: content["images"][0].update({"id": "a/1", "file_name": "sub/1.png"}))
    dataset = opened(root)
    assert dataset.image_ids == ["a/1"]
    assert dataset.read_image(0).shape == (40, 50, 3)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: c["annotations"][0].update(category_id=12), "annotation 1 has category 12"),
        (lambda c: c["annotations"][0].update(image_id=99), "annotation 1 belongs to image 99"),
        (lambda c: c["images"].append(dict(c["images"][0])), "image id 1 occurs twice"),
        (lambda c: c["categories"].append({"id": 7, "name": "again"}), "category id 7 occurs twice"),
        (lambda c: c["images"][0].update(file_name=""), "image 1 has no file_name"),
        (lambda c: c["images"].clear(), "the list of images is empty"),
        (lambda c: c["categories"].clear(), "the list of categories is empty"),
        (lambda c: c.pop("images"), "not a COCO instances file.*images"),
        (lambda c: c.pop("annotations"), "not a COCO instances file.*annotations"),
        (lambda c: c.pop("categories"), "not a COCO instances file.*categories"),
        (lambda c: c["images"][0].pop("file_name"), "image 1 has no file_name"),
        (lambda c: c["images"].append("2.png"), r"not a COCO instances file.*images\[1\]"),
        (lambda c: c["annotations"].append(None), r"not a COCO instances file.*annotations\[1\]"),
        (lambda c: c["annotations"][0].update(image_id=[1]), r"not a COCO instances file.*image_id.*annotations\[0\]"),
        (lambda c: c["annotations"][0].update(category_id=1.5), r"not a COCO.*category_id.*annotations\[0\]"),
        (lambda c: c["categories"][0].update(id="x"), r"not a COCO instances file.*categories\[0\]"),
    ],
)
def test_refused_files(write_coco, edit, expected):
    root = edited(write_coco([IMAGE], [GOOD]), edit)
    if "list of images" in expected:
        edited(root, lambda content: content["annotations"].clear())
    message = error_of(root)
    assert re.search(expected, message)
    assert "instances_train.json" in message


@pytest.mark.parametrize(
    ("field", "kind", "severity"),
    [
        ({"bbox": "10 10 10 10"}, "bbox is not four finite numbers", "repaired"),
        ({"bbox": [10, "x", 10, 10]}, "bbox is not four finite numbers", "repaired"),
        ({"bbox": [10, "10", 10, " 1e1"]}, "number written as text", "repaired"),
        ({"category_id": "3"}, "number written as text", "repaired"),
        ({"image_id": "1"}, "image_id of another type than the image's id", "repaired"),
        ({"image_id": 1.0, "category_id": 3.0}, None, None),
        ({"iscrowd": "0"}, "iscrowd is not 0 or 1", "repaired"),
        ({"iscrowd": []}, "iscrowd is not 0 or 1", "repaired"),
        ({"iscrowd": ...}, "iscrowd missing", "note"),
        ({"iscrowd": None}, "iscrowd missing", "note"),
        ({"area": ...}, "area missing", "note"),
        ({"area": None}, "area missing", "note"),
        ({"area": -1}, "area is not a positive number", "repaired"),
        ({"area": 0}, "area is not a positive number", "repaired"),
        ({"area": float("nan")}, "area missing", "note"),
        ({"area": "100"}, "number written as text", "repaired"),
        ({"area": "large"}, "area is not a positive number", "repaired"),
        ({"area": [100]}, "area is not a positive number", "repaired"),
    ],
)
def test_odd_fields_do_not_stop_the_others(write_coco, field, kind, severity):
    dataset = opened(write_coco([IMAGE], [{**GOOD, **field}, GOOD]))
    instances = dataset.instances(0)
    assert instances.annotation_ids == [1, 2]
    np.testing.assert_array_equal(instances.boxes, [[10, 10, 20, 20]] * 2)
    assert all(segmentation is not None for segmentation in instances.segmentations)
    found = [(finding.kind, finding.severity, finding.examples) for finding in dataset.report.findings]
    assert found == ([] if kind is None else [(kind, severity, ["annotation 1"])])


def test_a_crowd_that_is_text(write_coco):
    dataset = opened(write_coco([IMAGE], [{**GOOD, "iscrowd": "1"}]))
    assert dataset.num_objects().tolist() == [0]
    assert len(dataset.instances(0).crowd_boxes) == 1


def test_odd_images_and_categories(write_coco):
    root = write_coco([IMAGE], [GOOD], categories=[{"id": 3, "name": 5}, {"id": -7.0}])
    edited(root, lambda content: content["images"][0].update(id=1.0, width="50", license={}, height=[]))
    dataset = opened(root)
    assert dataset.category_ids == (-7, 3)
    assert dataset.class_names == ("-7", "5")
    np.testing.assert_array_equal(dataset.image_sizes, [[40, 50]])
    assert dataset.report.count("category without a name") == 1
    assert dataset.report.count("image without width or height") == 1


@pytest.mark.parametrize("info", [..., None, [], "text", {"year": "x"}])
def test_info_and_licences_are_not_read(write_coco, info):
    root = write_coco([IMAGE], [GOOD])
    edited(root, lambda content: content.update({} if info is ... else {"info": info, "licenses": info}))
    assert not opened(root).report.findings


def test_backslashes_of_another_system(write_coco):
    root = write_coco([IMAGE], [GOOD])
    (root / "train" / "sub").mkdir()
    (root / "train" / "1.png").rename(root / "train" / "sub" / "1.png")
    edited(root, lambda content: content["images"][0].update(file_name="sub\\1.png"))
    dataset = opened(root)
    assert dataset.file_names == ["sub/1.png"]
    assert dataset.report.count("file_name with backslashes") == 1


def test_with_errors_allowed_the_rest_is_there(write_coco):
    annotations = [GOOD, {**GOOD, "category_id": 12}, {**GOOD, "image_id": 9}, {**GOOD, "id": 1}]
    root = write_coco([IMAGE, IMAGE], annotations)
    (root / "train" / "2.png").unlink()
    edited(root, lambda content: content["annotations"].append("nonsense"))
    message = error_of(root)
    for words in ("annotations[4]", "belongs to image 9", "has category 12", ", and 2 more (mrcnn-data check lists"):
        assert words in message
    dataset = CocoDataset.from_root(root, "train", allow_errors=True)
    assert dataset.num_objects().tolist() == [2, 0]
    assert {finding.kind: finding.count for finding in dataset.opening_report.by_severity("error")} == {
        "annotation entry that cannot be read": 1,
        "annotation of an unknown image": 1,
        "annotation of an unknown category": 1,
        "annotation id that occurs twice": 1,
        "image file missing": 1,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "is not JSON"), ("<html>", "is not JSON"), ('{"images": [', "is not JSON"), ("[1]", "not a COCO")],
)
def test_files_that_are_no_annotations(write_coco, text, expected):
    root = write_coco([IMAGE], [GOOD])
    (root / "annotations" / "instances_train.json").write_text(text)
    assert expected in error_of(root)


def test_nesting_without_end(write_coco):
    root = write_coco([IMAGE], [{**GOOD, "segmentation": "HERE"}])
    path = root / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace('"HERE"', "[" * 5000 + "]" * 5000))
    assert "is not a COCO instances file" in error_of(root)


def test_binary_file(write_coco):
    root = write_coco([IMAGE], [GOOD])
    (root / "annotations" / "instances_train.json").write_bytes(bytes(range(256)))
    assert "is not JSON" in error_of(root)


def test_missing_places(write_coco, tmp_path):
    root = write_coco([IMAGE, IMAGE, IMAGE], [GOOD])
    assert "the data root does not exist" in error_of(tmp_path / "nowhere")
    assert "split 'val' does not exist" in error_of(root, "val")
    assert error_of(root, "val").endswith("has train")
    (root / "train" / "2.png").unlink()
    message = error_of(root)
    assert str(root / "train" / "2.png") in message
    assert "more" not in message
    (root / "train" / "3.png").unlink()
    assert "and 1 more" in error_of(root)
    with pytest.raises(DatasetError, match=r"gone.*image folder does not exist"):
        CocoDataset.open(root / "annotations" / "instances_train.json", tmp_path / "gone")
    with pytest.raises(DatasetError, match="cannot read the annotation file"):
        CocoDataset.open(root / "gone.json", root / "train")


def test_real_data_holds_what_is_known_of_it(shared_data):
    train = CocoDataset.from_root(shared_data / "coco_open", "train")
    val = CocoDataset.from_root(shared_data / "coco_open", "val")
    assert train.num_classes == val.num_classes == 81
    assert train.report.count("iscrowd") + val.report.count("iscrowd") == 13
    assert val.report.count("image without annotations") == 2
    nuclei = CocoDataset.from_root(shared_data / "nuclei", "train")
    assert int(nuclei.num_objects().sum()) == 1734
    assert not nuclei.report.findings


@pytest.mark.parametrize("name", ["iscrowd", "ignore"])
def test_a_flag_beyond_64_bits(write_coco, name):
    dataset = opened(write_coco([IMAGE], [{**GOOD, name: 10**25}]))
    assert dataset.annotations.is_region.tolist() == [True]
