"""Several annotation files as one dataset, and the layouts of COCO 2014 and 2017."""

import json

import cv2
import numpy as np
import pytest

from mrcnn_data import Augmentation, CocoDataset, DatasetError, TrainLoader, default_buckets, instance_masks

SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
CATEGORIES = {3: "three", 7: "seven"}


def write_split(root, split, *, names, folder=None, categories=CATEGORIES, first_id=1, value=60):
    """One object an image, categories in turn."""
    image_dir = root / (folder or split)
    image_dir.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    ids = list(categories)
    images, annotations = [], []
    for number, name in enumerate(names, start=first_id):
        cv2.imwrite(str(image_dir / name), np.full((40, 50, 3), value, np.uint8))
        images.append({"id": number, "file_name": name, "height": 40, "width": 50})
        annotations.append(
            {
                **{"id": number, "image_id": number, "category_id": ids[number % len(ids)], "iscrowd": 0, "area": 100},
                **{"bbox": [10, 10, 10, 10], "segmentation": SQUARE},
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": category_id, "name": name} for category_id, name in categories.items()],
    }
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content))
    return path


def test_files_with_their_own_folders(tmp_path):
    first = write_split(tmp_path / "a", "train", names=["1.png", "2.png"], value=50)
    second = write_split(tmp_path / "b", "train", names=["1.png"], categories={7: "seven", 5: "five"}, value=200)
    folders = [tmp_path / "a" / "train", tmp_path / "b" / "train"]
    both = CocoDataset.open([first, second], folders)
    assert len(both) == 3
    assert both.image_ids == [1, 2, 1]
    assert both.category_ids == (3, 5, 7)
    assert both.class_names == ("three", "five", "seven")
    assert [source.annotation_path for source in both.sources] == [first, second]
    assert [int(both.read_image(index).max()) for index in range(3)] == [50, 50, 200]
    assert [both.instances(index).classes.tolist() for index in range(3)] == [[3], [1], [2]]
    assert [both.instances(index).annotation_ids for index in range(3)] == [[1], [2], [1]]
    assert [int(instance_masks(both, index).sum()) for index in range(3)] == [100] * 3
    assert both.num_objects().tolist() == [1, 1, 1]
    assert not both.report.findings
    with pytest.raises(ValueError, match="several annotation files"):
        _ = both.annotation_path
    with pytest.raises(ValueError, match="several image folders"):
        _ = both.image_dir


def test_findings_name_their_file(tmp_path):
    paths = [write_split(tmp_path / name, name, names=["1.png"]) for name in ("a", "b")]
    content = json.loads(paths[1].read_text())
    content["annotations"][0].update(segmentation=[], iscrowd=1)
    content["annotations"].append({**content["annotations"][0], "id": 2, "iscrowd": 0})
    paths[1].write_text(json.dumps(content))
    both = CocoDataset.open(paths, [tmp_path / "a" / "a", tmp_path / "b" / "b"])
    assert [(finding.kind, finding.examples) for finding in both.report.findings] == [
        ("iscrowd", ["annotation 1 of instances_b.json"]),
        ("segmentation empty", ["annotation 2 of instances_b.json"]),
    ]


def test_an_id_that_means_two_classes(tmp_path):
    paths = [
        write_split(tmp_path, "a", names=["1.png"]),
        write_split(tmp_path, "b", names=["2.png"], categories={3: "other"}),
    ]
    with pytest.raises(DatasetError, match=r"instances_b.json: category 3 is 'other' here, but 'three' in the files"):
        CocoDataset.open(paths, [tmp_path / "a", tmp_path / "b"])


def test_classes_with_other_ids_are_matched_by_name(tmp_path):
    paths = [
        write_split(tmp_path, "a", names=["1.png", "2.png"]),
        write_split(tmp_path, "b", names=["3.png", "4.png"], categories={1: "seven", 2: "three"}),
    ]
    both = CocoDataset.open(paths, [tmp_path / "a", tmp_path / "b"])
    assert (both.category_ids, both.class_names) == ((3, 7), ("three", "seven"))
    assert [both.instances(index).classes.tolist() for index in range(4)] == [[2], [1], [1], [2]]
    (finding,) = both.report.findings
    assert (finding.severity, finding.examples) == (
        "repaired",
        ["category 1 -> 7 (seven) of instances_b.json", "category 2 -> 3 (three) of instances_b.json"],
    )


def test_classes_that_change_places(tmp_path):
    path = write_split(tmp_path, "a", names=["1.png", "2.png"], categories={1: "cat", 2: "dog"})
    dataset = CocoDataset.open(path, tmp_path / "a")
    swapped = dataset.with_classes((1, 2), ("dog", "cat"), reference="the model")
    assert swapped.class_names == ("dog", "cat")
    assert [swapped.instances(index).classes.tolist() for index in range(2)] == [[1], [2]]
    assert [dataset.instances(index).classes.tolist() for index in range(2)] == [[2], [1]]
    assert swapped.report.count("category with another id than in the other data") == 2
    assert dataset.with_classes((1, 2), ("cat", "dog"), reference="the model") is dataset


def test_fewer_and_more_classes_than_the_other(tmp_path):
    path = write_split(tmp_path, "a", names=["1.png"], categories={3: "three", 7: "seven"})  # an object of 7 only
    dataset = CocoDataset.open(path, tmp_path / "a")
    more = dataset.with_classes((1, 5, 9), ("one", "seven", "three"), reference="the model")
    assert more.class_names == ("one", "seven", "three")
    assert more.instances(0).classes.tolist() == [2]
    assert [str(finding) for finding in more.report.findings][-1:] == [
        "note: 1 x category of the model that is not listed (category one): no object of it is expected"
    ]
    fewer = dataset.with_classes((5,), ("seven",), reference="the model")
    assert fewer.instances(0).classes.tolist() == [1]
    assert "category three): left out" in str(fewer.report)
    with pytest.raises(DatasetError, match="has objects of category 7 'seven', which the model does not have"):
        dataset.with_classes((5,), ("three",), reference="the model")


def test_names_that_occur_twice_are_not_matched(tmp_path):
    path = write_split(tmp_path, "a", names=["1.png"], categories={1: "same", 2: "same"})
    dataset = CocoDataset.open(path, tmp_path / "a")
    assert dataset.with_classes((1, 2), ("same", "same"), reference="the model") is dataset
    with pytest.raises(DatasetError, match="two have the same name"):
        dataset.with_classes((1, 3), ("same", "same"), reference="the model")


def test_as_many_folders_as_files(tmp_path):
    path = write_split(tmp_path, "a", names=["1.png"])
    with pytest.raises(DatasetError, match="1 annotation files and 2 image folders"):
        CocoDataset.open(path, [tmp_path / "a", tmp_path / "a"])


def test_coco_2014(tmp_path):
    names = [f"COCO_val2014_{number:012d}.jpg" for number in (42, 73, 74)]
    write_split(tmp_path, "train2014", names=["COCO_train2014_000000000009.jpg"], first_id=9)
    write_split(tmp_path, "minival2014", names=names[:1], folder="val2014", first_id=42)
    write_split(tmp_path, "valminusminival2014", names=names[1:], folder="val2014", first_id=73)
    train = CocoDataset.from_root(tmp_path, ["train2014", "valminusminival2014"])
    assert train.image_ids == [9, 73, 74]
    assert train.image_path(0) == tmp_path / "train2014" / "COCO_train2014_000000000009.jpg"
    assert train.image_path(2) == tmp_path / "val2014" / names[2]
    assert CocoDataset.from_root(tmp_path, "minival2014").image_ids == [42]


def test_coco_2017(tmp_path):
    write_split(tmp_path, "train2017", names=["000000000009.jpg"])
    assert CocoDataset.from_root(tmp_path, "train2017").read_image(0).shape == (40, 50, 3)


def test_batches_of_all_files_through_the_cache(tmp_path):
    paths = [write_split(tmp_path / name, name, names=["1.png", "2.png"]) for name in ("a", "b")]
    folders = [tmp_path / "a" / "a", tmp_path / "b" / "b"]
    seen = []
    for _ in range(2):
        dataset = CocoDataset.open(paths, folders, cache_dir=tmp_path / "cache")
        loader = TrainLoader(
            dataset,
            buckets=default_buckets(40, 50),
            short_edge=40,
            max_size=50,
            images_per_batch=4,
            global_batch=4,
            seed=0,
            augmentation=Augmentation(horizontal_flip=0.0),
        )
        with loader:
            seen.append(next(iter(loader.steps()))[0])
    assert seen[0].gt_has_mask.sum() == 4
    for ours, theirs in zip(*seen, strict=True):
        np.testing.assert_array_equal(ours, theirs)
