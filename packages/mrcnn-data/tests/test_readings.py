"""Odd values that mean something: read as what they mean, counted, or refused by name; never another object."""

import base64
import json
import unicodedata

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_data import CocoDataset, DatasetError, instance_masks
from mrcnn_data.annotations.opening import find_split
from mrcnn_data.checks.fixing import fix_annotations, write_fixed
from mrcnn_data.images.files import found_elsewhere, leads_out
from mrcnn_data.images.reading import MAX_PIXELS, load_image

IMAGE = np.full((40, 50, 3), 90, np.uint8)
SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
GOOD = {"bbox": [10, 10, 10, 10], "segmentation": SQUARE}


def edited(root, edit):
    """Change the annotation file in place, and open it."""
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return root


def opened(root):
    return CocoDataset.from_root(root, "train")


def error_of(root):
    with pytest.raises(DatasetError) as caught:
        opened(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Numbers as text


@pytest.mark.parametrize("value", ["0", "false", "0.0", " 0 ", "no", "", None, 0.0, False])
@pytest.mark.parametrize("name", ["iscrowd", "ignore"])
def test_flags_that_say_no(write_coco, name, value):
    dataset = opened(write_coco([IMAGE], [{**GOOD, name: value}]))
    assert dataset.num_objects().tolist() == [1]
    assert dataset.report.count(f"{name} is not 0 or 1") == isinstance(value, str)


@pytest.mark.parametrize("value", ["1", "true", "1.0", "YES", 1.0, True])
def test_flags_that_say_yes(write_coco, value):
    assert opened(write_coco([IMAGE], [{**GOOD, "iscrowd": value}])).num_objects().tolist() == [0]


def test_every_number_may_be_text(write_coco):
    odd = {"id": "7", "image_id": "1", "category_id": "3", "bbox": ["10", "10.0", "1e1", "10"], "area": "100"}
    root = edited(
        write_coco([IMAGE], [{**GOOD, **odd}]),
        lambda content: content["images"][0].update(id="1", width="50", height="40.0"),
    )
    dataset = opened(root)
    instances = dataset.instances(0)
    assert instances.boxes.tolist() == [[10, 10, 20, 20]]
    assert dataset.image_sizes.tolist() == [[40, 50]]
    assert dataset.annotations.areas.tolist() == [100]
    assert int(instance_masks(dataset, 0).sum()) == 100
    assert dataset.report.count("number written as text") == 2


def test_the_id_zero_as_text(write_coco):
    root = edited(write_coco([IMAGE, IMAGE], [GOOD]), lambda content: content["images"][0].update(id=0))
    root = edited(root, lambda content: content["annotations"][0].update(image_id="0"))
    assert opened(root).num_objects().tolist() == [1, 0]


@pytest.mark.parametrize("image_id", [1, "a"])
def test_ids_of_two_types(write_coco, image_id):
    root = edited(write_coco([IMAGE, IMAGE], [GOOD]), lambda content: content["images"][0].update(id="a"))
    root = edited(root, lambda content: content["annotations"][0].update(image_id=image_id))
    assert "some image ids are text ('a') and some are numbers (2)" in error_of(root)


def test_the_same_number_as_text_and_number(write_coco):
    root = edited(write_coco([IMAGE, IMAGE], [GOOD]), lambda content: content["images"][1].update(id="1"))
    assert "some image ids are text ('1') and some are numbers (1)" in error_of(root)


# Categories


def test_a_list_of_categories_for_each_image(write_coco):
    dataset = opened(write_coco([IMAGE], [GOOD], categories=[{"id": 3, "name": "three"}] * 5))
    assert dataset.class_names == ("three",)
    assert dataset.report.count("category listed again") == 4


def test_an_id_with_two_names(write_coco):
    root = write_coco([IMAGE], [GOOD], categories=[{"id": 3, "name": "three"}, {"id": 3, "name": "four"}])
    assert "category id 3 occurs twice" in error_of(root)


def test_names_of_categories(write_coco):
    names = [" three ", "", "  ", 5, None, "caf\u00e9\u3000"]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=3)]
    dataset = opened(write_coco([IMAGE], [GOOD], categories=categories))
    assert dataset.class_names == ("three", "4", "5", "5", "7", "caf\u00e9")
    assert dataset.report.count("category without a name") == 3
    assert dataset.report.count("white space around a category's name") == 2


def without_classes(content):
    content["categories"] = []
    for entry in content["annotations"]:
        del entry["category_id"]


def test_no_categories(write_coco, tmp_path):
    root = edited(write_coco([IMAGE, IMAGE], [GOOD, {**GOOD, "image_id": 2}]), without_classes)
    assert "the list of categories is empty: `mrcnn-data check ROOT SPLIT --one-class NAME --fix" in error_of(root)
    write_fixed(find_split(root, "train"), tmp_path / "fixed.json", one_class="leaf")
    dataset = CocoDataset.open(tmp_path / "fixed.json", root / "train")
    assert (dataset.class_names, dataset.num_objects().tolist()) == (("leaf",), [1, 1])


def test_objects_without_a_category(write_coco):
    root = edited(write_coco([IMAGE], [GOOD]), lambda content: content["annotations"][0].pop("category_id"))
    assert "category_id" in error_of(root)
    assert "--one-class NAME" in error_of(root)


# RLE text that a tool has encoded once more


def rle_with_backslash():
    """Return an RLE whose text has a backslash, and its area."""
    for width in range(1, 40):
        mask = np.zeros((40, 50), np.uint8, order="F")
        mask[3 : 3 + width, 4:40] = 1
        mask[1, :] = 1
        counts = coco_mask.encode(mask)["counts"]
        if b"\\" in counts:
            return counts, int(mask.sum())
    raise AssertionError


COUNTS, AREA = rle_with_backslash()
ENCODED = {
    "as it is": COUNTS.decode(),
    "doubled backslashes": COUNTS.decode().replace("\\", "\\\\"),
    "bytes as text": str(COUNTS),
    "bytes as text, doubled": f"b'{COUNTS.decode()}'",
    "base64": base64.b64encode(COUNTS).decode(),
}


@pytest.mark.parametrize("how", ENCODED)
def test_rle_text_that_was_encoded_once_more(write_coco, how):
    rle = {"size": [40, 50], "counts": ENCODED[how]}
    dataset = opened(write_coco([IMAGE], [{"bbox": [0, 0, 50, 40], "segmentation": rle}]))
    assert int(instance_masks(dataset, 0).sum()) == AREA
    assert dataset.report.count("RLE text that was escaped or encoded once more") == (how != "as it is")


@pytest.mark.parametrize("counts", ["b'", "b'\\x'", "====", "b''", "a" * 9, str(COUNTS[:-1]), "b'" + "(" * 5000])
def test_rle_text_that_fills_nothing(write_coco, counts):
    rle = {"size": [40, 50], "counts": counts}
    dataset = opened(write_coco([IMAGE], [{"bbox": [0, 0, 50, 40], "segmentation": rle}]))
    assert dataset.report.count("RLE that cannot be decoded") == 1


# Image files


@pytest.mark.parametrize(
    ("written", "how"),
    [
        ("/home/somebody/photos/1.png", "in another folder"),
        ("../photos/1.png", "in another folder"),
        ("C:\\photos\\1.png", "in another folder"),
        ("photos/1.png", "in another folder"),
        ("%31.png", "with %-codes"),
        ("1.PNG", "in other letter case"),
        ("photos/1.PnG", "in another folder and other letter case"),
        ("1.jpg", "with another suffix"),
        ("photos/1.jpeg", "in another folder and with another suffix"),
    ],
)
def test_a_file_with_another_name(write_coco, tmp_path, written, how):
    root = write_coco([IMAGE, IMAGE], [GOOD])
    (root / "train" / "2.png").rename(root / "train" / "other.png")
    edited(root, lambda content: content["images"].pop(1))
    edited(root, lambda content: content["images"][0].update(file_name=written))
    message = error_of(root)
    assert ("leads out of" in message) == written.startswith(("/", ".."))
    assert f"it is there {how} (" in message
    assert "as 1.png): `mrcnn-data check ROOT SPLIT --fix OUT.json` writes their names" in message
    write_fixed(find_split(root, "train"), tmp_path / "fixed.json")
    assert CocoDataset.open(tmp_path / "fixed.json", root / "train").file_names == ["1.png"]


def test_forms_of_unicode(tmp_path):
    name = "caf\u00e9.png"
    (tmp_path / unicodedata.normalize("NFD", name)).touch()
    found = found_elsewhere([name], tmp_path)
    assert found is not None
    assert (found.names, found.how) == ({name: unicodedata.normalize("NFD", name)}, "in another form of Unicode")


def test_only_one_file_for_each_image_is_an_answer(tmp_path):
    for name in ("a/1.png", "b/1.png", "2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert found_elsewhere(["c/1.png"], tmp_path) is None  # two files
    assert found_elsewhere(["c/2.png", "d/2.png"], tmp_path) is None  # one file for two images
    assert found_elsewhere(["c/2.png", "c/3.png"], tmp_path) is None  # one is nowhere


@pytest.mark.parametrize("name", ["a.png", "a/../b.png", "..a.png", "a/..b/c.png", "./a.png"])
def test_names_inside(name):
    assert not leads_out(name)


@pytest.mark.parametrize("name", ["/a.png", "../a.png", "a/../../b.png", ".."])
def test_names_that_lead_out(name):
    assert leads_out(name)


def test_absolute_names_of_files_in_the_folder_are_rewritten(write_coco, tmp_path):
    root = write_coco([IMAGE], [GOOD])
    name = str(root / "train" / "1.png")
    edited(root, lambda content: content["images"][0].update(file_name=name))
    assert "it is there in another folder" in error_of(root)
    write_fixed(find_split(root, "train"), tmp_path / "fixed.json")
    assert CocoDataset.open(tmp_path / "fixed.json", root / "train").file_names == ["1.png"]


def test_names_outside_are_refused_also_if_the_file_exists(write_coco):
    root = write_coco([IMAGE], [GOOD])
    (root / "train" / "1.png").rename(root / "1.png")
    edited(root, lambda content: content["images"][0].update(file_name="../1.png"))
    message = error_of(root)
    assert "the file_name '../1.png' of image 1 leads out of" in message
    assert "write names relative to a folder that has all images" in message
    outside = CocoDataset.open(root / "annotations" / "instances_train.json", root / "train", allow_errors=True)
    assert outside.report.count("file_name that leads out of the image folder") == 1


def header_only_png(path, height, width):
    """Write a PNG that promises pixels and has none."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_the_header_decides_before_pixels_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    header_only_png(path, 32000, 32000)

    def fail(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("cv2.imdecode", fail)
    with pytest.raises(DatasetError, match=rf"the image is 32000 x 32000 .* more than the {MAX_PIXELS} pixels"):
        load_image(path)
    header_only_png(path, 30, 20)
    with pytest.raises(DatasetError, match=r"the image is 20 x 30 pixels .*, the annotations say 50 x 40"):
        load_image(path, expected_size=(40, 50))


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_header_of_a_tiff(tmp_path, order):
    import struct

    path = tmp_path / "bomb.tif"
    entries = [struct.pack(order + "HHII", tag, 4, 1, 40000) for tag in (256, 257)]
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    path.write_bytes(start + struct.pack(order + "H", 2) + b"".join(entries) + bytes(4))
    with pytest.raises(DatasetError, match="the image is 40000 x 40000 pixels"):
        load_image(path)


# What a fix may remove


def test_a_fix_that_removes_much_asks_first(write_coco, tmp_path):
    bad = {**GOOD, "bbox": [10, 10, 0, 0], "segmentation": []}
    root = write_coco([IMAGE], [*[GOOD] * 8, bad, bad])
    source = find_split(root, "train")
    with pytest.raises(DatasetError, match=r"remove 2 of 10 annotations, 2 of them because: no usable box.*--force"):
        write_fixed(source, tmp_path / "fixed.json")
    assert not (tmp_path / "fixed.json").exists()
    write_fixed(source, tmp_path / "fixed.json", force=True)
    assert len(json.loads((tmp_path / "fixed.json").read_text())["annotations"]) == 8
    edited(root, lambda content: content["annotations"].pop())
    edited(root, lambda content: content["annotations"].append({**content["annotations"][0], "id": 99}))
    assert len(fix_annotations(source).changes) == 1
    write_fixed(source, tmp_path / "one.json")  # a tenth
