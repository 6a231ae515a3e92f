"""A subset is a data set: the chosen images and classes, entries unchanged, the same for the same seed."""

import json

import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, OutputError, instance_masks
from mrcnn_data.errors import OptionError
from mrcnn_data.tools.cli import main
from mrcnn_data.tools.subset import write_subset

BOX = {"bbox": [1, 2, 10, 12], "segmentation": [[1, 2, 11, 2, 11, 14, 1, 14]]}


@pytest.fixture
def root(write_coco, tmp_path):
    """Twenty images; 1 to 10 have an object of `three`, 6 to 15 one of `seven`, 16 only a crowd, the rest nothing."""
    images = [np.full((20, 30, 3), number, np.uint8) for number in range(20)]
    annotations = [{**BOX, "image_id": image, "category_id": 3, "note": "kept"} for image in range(1, 11)]
    annotations += [{**BOX, "image_id": image, "category_id": 7} for image in range(6, 16)]
    annotations += [{**BOX, "image_id": 16, "category_id": 7, "iscrowd": 1, "segmentation": {"size": [20, 30], "counts": [0, 600]}}]  # fmt: skip  # noqa: E501
    return write_coco(images, annotations)


def content(folder):
    return json.loads((folder / "annotations" / "instances_train.json").read_text())


def ids(folder):
    return [image["id"] for image in content(folder)["images"]]


def test_a_subset_opens_as_a_data_set_with_the_same_objects(root, tmp_path):
    out = tmp_path / "out"
    write_subset(root, "train", out, images=7, seed=3)
    whole, part = CocoDataset.from_root(root, "train"), CocoDataset.from_root(out, "train")
    assert len(part) == 7
    assert part.class_names == whole.class_names
    for index, image_id in enumerate(part.image_ids):
        other = list(whole.image_ids).index(image_id)
        assert (part.read_image(index) == whole.read_image(other)).all()
        assert part.instances(index).boxes.tolist() == whole.instances(other).boxes.tolist()
        masks, others = instance_masks(part, index), instance_masks(whole, other)
        assert [mask.tobytes() for mask in masks] == [mask.tobytes() for mask in others]


def test_entries_stay_as_they_are_and_in_their_order(root, tmp_path):
    file = root / "annotations" / "instances_train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "info": {"year": 2026}}))
    write_subset(root, "train", tmp_path / "out", images=10)
    whole, part = content(root), content(tmp_path / "out")
    assert part["info"] == {"year": 2026}
    for name in ("images", "annotations", "categories"):
        assert part[name] == [entry for entry in whole[name] if entry in part[name]]
    chosen = set(ids(tmp_path / "out"))
    assert part["annotations"] == [entry for entry in whole["annotations"] if entry["image_id"] in chosen]


def test_a_seed_decides_and_fewer_images_are_a_part_of_more(root, tmp_path):
    chosen = {}
    for name, images, seed in (("a", 8, 0), ("b", 8, 0), ("c", 8, 1), ("d", 3, 0)):
        write_subset(root, "train", tmp_path / name, images=images, seed=seed)
        chosen[name] = ids(tmp_path / name)
    assert chosen["a"] == chosen["b"]
    assert chosen["a"] != chosen["c"]
    assert set(chosen["d"]) < set(chosen["a"])


def test_chosen_classes_have_their_images_and_annotations_only(root, tmp_path):
    write_subset(root, "train", tmp_path / "out", images=10, classes=["seven"])
    part = content(tmp_path / "out")
    assert ids(tmp_path / "out") == list(range(6, 16)), "a crowd alone is no object"
    assert [category["name"] for category in part["categories"]] == ["seven"]
    assert {entry["category_id"] for entry in part["annotations"]} == {7}
    assert CocoDataset.from_root(tmp_path / "out", "train").class_names == ("seven",)


def test_several_classes(root, tmp_path):
    write_subset(root, "train", tmp_path / "out", images=15, classes=["seven", "three"])
    assert ids(tmp_path / "out") == list(range(1, 16))


def test_only_the_images_of_the_subset_are_copied(root, tmp_path):
    subset = write_subset(root, "train", tmp_path / "out", images=4)
    copied = {path.name: path.read_bytes() for path in (tmp_path / "out" / "train").glob("*.png")}
    assert copied == {name: (root / "train" / name).read_bytes() for name in subset.files}
    assert len(copied) == 4


def test_ids_as_text_or_with_a_point_match(root, tmp_path):
    file = root / "annotations" / "instances_train.json"
    whole = json.loads(file.read_text())
    whole["annotations"][0]["image_id"] = "1"
    whole["annotations"][1]["image_id"] = 2.0
    file.write_text(json.dumps(whole))
    write_subset(root, "train", tmp_path / "out", images=20)
    assert len(content(tmp_path / "out")["annotations"]) == 21


def test_running_again_replaces_what_it_wrote_and_nothing_else(root, tmp_path):
    out = tmp_path / "out"
    write_subset(root, "train", out, images=4)
    write_subset(root, "train", out, images=4, classes=["three"])
    assert len(ids(out)) == 4
    (out / "annotations" / "instances_train.json").write_text("mine")
    with pytest.raises(OutputError, match=r"instances_train\.json exists and was not written"):
        write_subset(root, "train", out, images=4)
    assert (out / "annotations" / "instances_train.json").read_text() == "mine"


def test_the_command_says_what_it_wrote(root, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["subset", str(root), "train", str(out), "--images", "3", "--classes", "seven", "--seed", "2"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{out}: 3 images, 3 objects and crowds, 1 classes\n"
    assert main([*arguments[:-4], "--classes", "eight"]) == 2
    assert capsys.readouterr().err.startswith("mrcnn-data: class 'eight' is not in ")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": 0}, OptionError, "images=0 must be at least 1"),
        ({"images": 21}, DatasetError, "has 20 images, not 21"),
        ({"images": 11, "classes": ["seven"]}, DatasetError, "has 10 images with an object of seven, not 11"),
        ({"images": 1, "classes": ["eight"]}, OptionError, "class 'eight' .* has seven, three"),
    ],
)
def test_what_cannot_be_chosen_is_named(root, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        write_subset(root, "train", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_subset_never_replaces_its_data_set(root, tmp_path_factory):
    path = root / "annotations" / "instances_train.json"
    before = path.read_bytes()
    link = tmp_path_factory.mktemp("links") / "link"
    link.symlink_to(root)
    for out in (root, link):
        with pytest.raises(OptionError, match="is part of the data set itself"):
            write_subset(root, "train", out, images=1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', '{"images": [1], "annotations": [], "categories": []}'])
def test_a_file_that_is_not_coco_is_named(root, tmp_path, text):
    (root / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(DatasetError, match=r"instances_train\.json is not (JSON|a COCO)"):
        write_subset(root, "train", tmp_path / "out", images=1)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "", None])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(root, tmp_path, name):
    file = root / "annotations" / "instances_train.json"
    whole = json.loads(file.read_text())
    for image in whole["images"]:
        image["file_name"] = name
    file.write_text(json.dumps(whole))
    with pytest.raises(DatasetError, match="is not a name inside the image folder"):
        write_subset(root, "train", tmp_path / "out", images=1)


def test_a_missing_image_is_named_before_anything_is_written(root, tmp_path):
    for path in (root / "train").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"\.png: the image file does not exist"):
        write_subset(root, "train", tmp_path / "out", images=1)
    assert not (tmp_path / "out").exists()


def test_real_photographs_with_crowds(shared_data, tmp_path):
    write_subset(shared_data / "coco_open", "val", tmp_path / "out", images=5, classes=["person"], seed=1)
    dataset = CocoDataset.from_root(tmp_path / "out", "val")
    assert len(dataset) == 5
    assert dataset.class_names == ("person",)
    assert (dataset.num_objects() > 0).all()


def test_flags_and_names_are_read_as_training_reads_them(root, tmp_path):
    file = root / "annotations" / "instances_train.json"
    whole = json.loads(file.read_text())
    for image in whole["images"]:
        image["file_name"] = f"sub\\{image['file_name']}"
    for annotation in whole["annotations"]:
        annotation["iscrowd"] = str(annotation["iscrowd"])
    file.write_text(json.dumps(whole))
    (root / "train").rename(root / "sub")
    (root / "train").mkdir()
    (root / "sub").rename(root / "train" / "sub")
    write_subset(root, "train", tmp_path / "out", images=10, classes=["seven"])
    assert ids(tmp_path / "out") == list(range(6, 16)), "a crowd alone is no object"
    assert len(CocoDataset.from_root(tmp_path / "out", "train")) == 10
