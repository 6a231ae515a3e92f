"""`--fix`: the clean file opens, checks clean, and says what was changed."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrcnn_data import CocoDataset, DatasetError, Source, check_dataset, instance_masks
from mrcnn_data.checks.fixing import fix_annotations, write_fixed

IMAGE = np.full((40, 50, 3), 90, np.uint8)
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
GOOD = {"bbox": [10, 10, 10, 10], "segmentation": SQUARE}


def source_of(root):
    return Source(root / "annotations" / "instances_train.json", root / "train")


def edited(root, edit):
    path = source_of(root).annotation_path
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def fixed(root):
    """The clean content, what was changed, and the dataset that it gives, which must check clean."""
    source = source_of(root)
    out = root / "clean.json"
    write_fixed(source, out, force=True)
    changes = out.with_suffix(".changes.txt").read_text().splitlines()  # escaped
    dataset = CocoDataset.open(out, source.image_dir)
    report = check_dataset(dataset)
    assert not report.by_severity("error", "dropped", "repaired"), str(report)
    return json.loads(out.read_text()), changes, dataset


def test_a_clean_file_stays_as_it_is(write_coco):
    root = write_coco([IMAGE], [{**GOOD, "note": "x"}, {**GOOD, "category_id": 7, "iscrowd": 1}])
    content, changes, _ = fixed(root)
    assert changes == []
    assert content == json.loads(source_of(root).annotation_path.read_text())


@pytest.mark.parametrize(
    ("fields", "expected", "change"),
    [
        ({"bbox": [5, 5, 0, 10]}, None, "annotation 2: removed: no usable box"),
        ({"bbox": [60, 10, 20, 10]}, None, "annotation 2: removed: no usable box"),
        ({"category_id": 12}, None, "annotation 2: removed: its category 12 is not in the list"),
        ({"image_id": 12}, None, "annotation 2: removed: its image 12 is not in the list"),
        ({"bbox": ...}, {"bbox": [10, 10, 10, 10]}, "annotation 2: bbox [10.0, 10.0, 10.0, 10.0]"),
        ({"bbox": [45, 10, 20, 10]}, {"bbox": [45, 10, 5, 10]}, "annotation 2: bbox [45.0, 10.0, 5.0, 10.0]"),
        (
            {"bbox": ["10.1", "10", "9.9", "10"]},
            {"bbox": [10.1, 10, 9.9, 10]},  # not rounded to float32
            "annotation 2: bbox [10.1, 10.0, 9.9, 10.0]",
        ),
        ({"iscrowd": ...}, {"iscrowd": 0}, "annotation 2: iscrowd 0"),
        ({"iscrowd": "1"}, {"iscrowd": 1}, "annotation 2: iscrowd 1"),
        ({"ignore": "1"}, {"ignore": 1}, "annotation 2: ignore 1"),
        ({"area": -1}, {"area": 100}, "annotation 2: area 100.0"),
        ({"area": float("nan")}, {"area": 100}, "annotation 2: area 100.0"),
        ({"segmentation": SQUARE[0]}, {"segmentation": SQUARE}, "annotation 2: segmentation repaired (flat polygon)"),
        (
            {"segmentation": [[0, 0, 5, 5], *SQUARE]},
            {"segmentation": SQUARE},
            "annotation 2: segmentation repaired (polygon part with fewer than 6 numbers)",
        ),
        ({"segmentation": []}, {"segmentation": ...}, "annotation 2: segmentation removed (segmentation empty)"),
        ({"id": 1}, {"id": 2}, "annotation 1, number 1: has the id 2 now"),
        ({"id": ...}, {"id": 2}, "annotation None, number 1: has the id 2 now"),
    ],
)
def test_faults_of_annotations(write_coco, fields, expected, change):
    content, changes, _ = fixed(write_coco([IMAGE], [GOOD, {**GOOD, **fields}]))
    assert changes == [change]
    if expected is None:
        assert [annotation["id"] for annotation in content["annotations"]] == [1]
        return
    for name, value in expected.items():
        assert content["annotations"][1].get(name, ...) == value


def test_faults_of_images_and_categories(write_coco):
    annotations = [{**GOOD, "image_id": number} for number in range(1, 7)]
    root = write_coco([IMAGE] * 6, annotations, categories=[{"id": 3}, {"id": 3, "name": "again"}, "x"])
    (root / "train" / "2.png").unlink()
    (root / "train" / "3.png").write_bytes(b"")
    cv2.imwrite(str(root / "train" / "4.png"), IMAGE[:30])
    edited(root, lambda content: content["images"][4].update(width=-1))
    edited(root, lambda content: content["images"].append({**content["images"][5], "file_name": "other.png"}))
    content, changes, dataset = fixed(root)
    assert [image["id"] for image in content["images"]] == [1, 5, 6]
    assert content["images"][1]["width"] == 50
    assert dataset.num_objects().tolist() == [1, 1, 1]
    assert content["categories"] == [{"id": 3, "name": "3"}]
    assert len(changes) == 3 + 2 + 2 + 3 + 1  # categories; images 2 and 6; 3 and 4; their annotations; width


def test_nothing_left(write_coco):
    root = write_coco([IMAGE], [GOOD])
    (root / "train" / "1.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="none of its images can be used"):
        fix_annotations(source_of(root))
    (root / "train" / "1.png").unlink()
    with pytest.raises(DatasetError, match="none of its images can be used"):
        fix_annotations(source_of(root))
    source_of(root).annotation_path.write_text("{")
    with pytest.raises(DatasetError, match="is not JSON"):
        fix_annotations(source_of(root))
    source_of(root).annotation_path.write_text("[]")
    with pytest.raises(DatasetError, match="is not a COCO instances file"):
        fix_annotations(source_of(root))


def test_the_file_itself_is_not_overwritten(write_coco):
    source = source_of(write_coco([IMAGE], [GOOD]))
    with pytest.raises(DatasetError, match="give another name"):
        write_fixed(source, source.annotation_path)


odd = st.one_of(
    st.none(), st.integers(-3, 99), st.floats(), st.text(max_size=3), st.booleans(), st.just([]), st.just({})
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(odd, st.just(1)),
        "image_id": st.one_of(odd, st.just(1)),
        "category_id": st.one_of(odd, st.just(3)),
        "bbox": st.one_of(odd, st.lists(st.one_of(odd, st.floats(-9, 60)), max_size=5)),
        "segmentation": st.one_of(
            odd,
            st.lists(st.one_of(odd, st.just(SQUARE[0]), st.lists(st.floats(-30, 90), max_size=9)), max_size=3),
            st.fixed_dictionaries({"size": st.just([40, 50]), "counts": st.one_of(odd, st.just([9, 9, 1982]))}),
        ),
        "area": odd,
        "iscrowd": odd,
        "ignore": odd,
    },
)


def test_ids_as_text_lose_nothing(write_coco):
    annotations = [{**GOOD, "image_id": image, "category_id": "3"} for image in ("1", 1, "2", 2.0)]
    root = write_coco([IMAGE, IMAGE], annotations)
    read = CocoDataset.from_root(root, "train")
    content, changes, dataset = fixed(root)
    assert read.num_objects().tolist() == dataset.num_objects().tolist() == [2, 2]
    assert [(one["image_id"], one["category_id"]) for one in content["annotations"]] == [(1, 3), (1, 3), (2, 3), (2, 3)]
    assert changes[:2] == ["annotation 1: image_id 1", "annotation 1: category_id 3"]


@pytest.mark.parametrize(
    ("listed", "used", "kept"),
    [
        (["1", "2"], ["1", "2"], ["1", "2"]),  # text throughout stays text
        (["1", "2"], [1, 2], ["1", "2"]),
        ([1, "2"], ["1", 2], [1, 2]),
        (["01", "2"], [1, "02"], ["01", "2"]),
    ],
)
def test_image_ids_of_two_types(write_coco, listed, used, kept):
    root = write_coco([IMAGE, IMAGE], [{**GOOD, "image_id": image_id} for image_id in used])
    edited(root, lambda content: [image.update(id=new) for image, new in zip(content["images"], listed, strict=True)])
    content, _, dataset = fixed(root)
    assert CocoDataset.from_root(root, "train").image_ids == dataset.image_ids == kept
    assert dataset.num_objects().tolist() == [1, 1]
    assert {one["image_id"] for one in content["annotations"]} == set(kept)


def listed_ids(root, listed):
    edited(root, lambda content: [image.update(id=new) for image, new in zip(content["images"], listed, strict=True)])


def test_ids_that_stay_of_two_types_become_text(write_coco):
    root = write_coco([IMAGE, IMAGE], [{**GOOD, "image_id": image_id} for image_id in ("a", "2")])
    listed_ids(root, ["a", 2])
    _, changes, dataset = fixed(root)
    assert dataset.image_ids == ["a", "2"]
    assert dataset.num_objects().tolist() == [1, 1]
    assert "all images: ids are text now, because 'a' is not a number" in changes


def test_two_images_with_the_same_id_as_text_and_number(write_coco):
    root = write_coco([IMAGE, IMAGE], [GOOD])
    listed_ids(root, [1, "1"])
    with pytest.raises(DatasetError, match="1 and '1' are the ids of two images"):
        fix_annotations(source_of(root))


def test_a_number_that_two_images_have_as_text_is_neither(write_coco):
    root = write_coco([IMAGE, IMAGE], [{**GOOD, "image_id": 5}])
    edited(root, lambda content: (content["images"][0].update(id="5"), content["images"][1].update(id="05")))
    with pytest.raises(DatasetError, match="annotation 1 belongs to image 5, which is not in the list"):
        CocoDataset.from_root(root, "train")


def test_category_ids_as_text(write_coco):
    categories = [{"id": "7", "name": "seven"}, {"id": 3, "name": "three"}]
    root = write_coco(
        [IMAGE], [{**GOOD, "category_id": category_id} for category_id in (7, "7", 3)], categories=categories
    )
    content, _, dataset = fixed(root)
    assert dataset.category_ids == (3, 7)
    assert dataset.instances(0).classes.tolist() == [2, 2, 1]
    assert content["categories"] == [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}]


def test_a_crowd_with_flags_as_text_stays_a_crowd(write_coco):
    content, _, dataset = fixed(write_coco([IMAGE], [{**GOOD, "iscrowd": "1", "ignore": "0"}]))
    assert (content["annotations"][0]["iscrowd"], content["annotations"][0]["ignore"]) == (1, 0)
    assert dataset.num_objects().tolist() == [0]


as_text = st.sampled_from(["id", "image_id", "category_id", "iscrowd", "ignore", "area", "bbox"])


@given(st.lists(fields, max_size=4), st.lists(st.tuples(st.integers(0, 3), as_text), max_size=6))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_fix_keeps_all_that_the_loader_trains(write_coco, annotations, texts):
    entries = [{**GOOD, "ignore": 0, **annotation} for annotation in annotations]
    root = write_coco([IMAGE], entries)

    def write_as_text(content):
        for number, name in texts:
            if number < len(content["annotations"]):
                entry = content["annotations"][number]
                value = entry.get(name)
                entry[name] = list(map(str, value)) if isinstance(value, list) else str(value)

    edited(root, write_as_text)
    trains = CocoDataset.from_root(root, "train", allow_errors=True)
    _, _, dataset = fixed(root)
    assert dataset.num_objects().tolist() == trains.num_objects().tolist()
    assert dataset.annotations.is_region.sum() == trains.annotations.is_region.sum()
    for one, other in zip(dataset.instances(0), trains.instances(0), strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_array_equal(instance_masks(dataset, 0), instance_masks(trains, 0))


@given(st.lists(fields, max_size=4))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_fixed_file_checks_clean(write_coco, annotations):
    root = write_coco([IMAGE], [{**GOOD, **annotation} for annotation in annotations])
    content, changes, _ = fixed(root)
    again = fix_annotations(Source(root / "clean.json", root / "train"))
    assert again.changes == []
    assert len(changes) >= len(annotations) - len(content["annotations"])


@pytest.mark.parametrize("category_id", [7, "7", 7.0])
def test_categories_of_one_id_are_not_joined(write_coco, category_id):
    root = write_coco([IMAGE], [GOOD])
    edited(root, lambda c: c["categories"].append({"id": category_id, "name": "another"}))
    with pytest.raises(
        DatasetError, match=r"category id 7 stands for both .* and 'another': give one of them another id"
    ):
        fix_annotations(source_of(root))


def test_a_category_that_is_listed_twice_is_kept_once(write_coco):
    root = write_coco([IMAGE], [GOOD])
    edited(root, lambda c: c["categories"].append(dict(c["categories"][0])))
    content, changes, _ = fixed(root)
    assert len(content["categories"]) == 2
    assert changes == ["category number 2: removed: its id occurs twice"]


def test_numbers_beyond_float64(write_coco):
    root = write_coco([IMAGE], [{**GOOD, "area": 4321, "segmentation": [[0, 0, 8, 0, 8, 4321], *SQUARE]}])
    path = source_of(root).annotation_path
    path.write_text(path.read_text().replace("4321", "1e400"))
    content, _, _ = fixed(root)
    assert [(one["area"], one["segmentation"]) for one in content["annotations"]] == [(100, SQUARE)]
