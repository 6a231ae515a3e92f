"""Data sets that are probably not what they seem: said before anything is trained."""

import json

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, check_dataset, load_image
from mrcnn_data.annotations.opening import find_split
from mrcnn_data.checks.fixing import write_fixed
from mrcnn_data.images.tiff import tiff_number_type, tiff_pages
from mrcnn_data.tools.cli import main

NOISE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)


def squares(num, *, size=(320, 240), seed=0):
    """Boxes (x, y, w, h) inside an image of (w, h) `size`, far from each other's fractions."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0.05, 0.6, (num, 2)) * size
    edges = rng.uniform(0.1, 0.35, (num, 2)) * size
    return np.round(np.concatenate([corners, edges], axis=1), 1).tolist()


def polygon(box):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def fixed(root, tmp_path, how):
    write_fixed(find_split(root, "train"), tmp_path / "fixed.json", boxes=how)
    return CocoDataset.open(tmp_path / "fixed.json", root / "train")


def checked(root):
    return check_dataset(CocoDataset.from_root(root, "train", allow_errors=True), image_files=False)


@pytest.mark.parametrize(
    ("kind", "unit", "severity", "found"),
    [
        ("fractions", 1.0, "error", "all between 0 and 1"),
        ("percentages", 100.0, "warning", "all between 0 and 100"),
    ],
)
def test_parts_of_the_image_instead_of_pixels(write_coco, tmp_path, kind, unit, severity, found):
    boxes = squares(30)
    parts = [(np.array(box) / [320, 240, 320, 240] * unit).tolist() for box in boxes]
    root = write_coco([NOISE], [{"bbox": part, "segmentation": polygon(part)} for part in parts])
    (finding,) = [one for one in checked(root).findings if found in one.kind]
    assert finding.severity == severity
    assert f"--boxes {kind}" in finding.message + finding.action
    mended = fixed(root, tmp_path, kind)
    np.testing.assert_allclose(mended.annotations.boxes_xywh, boxes, atol=0.01)
    assert not mended.report.by_severity("error", "warning", "dropped")
    assert mended.annotations.areas[0] == pytest.approx(boxes[0][2] * boxes[0][3], rel=0.02)


def test_flat_polygons_and_other_ids_are_scaled_too(write_coco, tmp_path):
    boxes = squares(6)
    parts = [(np.array(box) / [320, 240, 320, 240]).tolist() for box in boxes]
    root = write_coco([NOISE], [{"bbox": part, "segmentation": polygon(part)[0], "image_id": 1.0} for part in parts])
    mended = fixed(root, tmp_path, "fractions")
    np.testing.assert_allclose(mended.annotations.boxes_xywh, boxes, atol=0.01)
    assert not mended.report.by_severity("error", "warning", "dropped", "repaired"), str(mended.report)


def test_boxes_stay_where_a_mask_cannot_be_used(write_coco, tmp_path):
    broken = {"size": [1, 1], "counts": "0"}
    root = write_coco([NOISE], [{"bbox": box, "segmentation": broken} for box in squares(6)])
    np.testing.assert_allclose(fixed(root, tmp_path, "masks").annotations.boxes_xywh, squares(6))


def test_parts_of_an_image_of_unknown_size(write_coco, tmp_path):
    root = write_coco([NOISE], [{"bbox": [0.1, 0.1, 0.5, 0.5]}])
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    del content["images"][0]["width"]
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="image 1 has no width and height, which fractions need"):
        fixed(root, tmp_path, "fractions")


@pytest.mark.parametrize(
    "boxes",
    [
        [[0, 0, 1, 1]] * 9,  # a pixel
        [[10, 10, 30, 20]] * 30,  # small objects in a corner
        squares(30),
    ],
)
def test_pixels_are_not_doubted(write_coco, boxes):
    report = checked(write_coco([NOISE], [{"bbox": box, "segmentation": polygon(box)} for box in boxes]))
    assert not report.by_severity("error", "warning")


def test_corners_instead_of_width_and_height(write_coco, tmp_path):
    boxes = [[x + 100, y + 80, w, h] for x, y, w, h in squares(30, size=(200, 150))]
    corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    root = write_coco([NOISE], [{"bbox": box} for box in corners])
    (finding,) = checked(root).by_severity("warning")
    assert "--boxes corners" in finding.action
    np.testing.assert_allclose(fixed(root, tmp_path, "corners").annotations.boxes_xywh, boxes, atol=1e-6)


def test_boxes_that_are_not_those_of_the_masks(write_coco, tmp_path):
    boxes = squares(28)
    root = write_coco(
        [NOISE], [{"bbox": [5, 5, 9, 9], "segmentation": polygon(box)} for box in boxes] + [{"bbox": [1, 1, 9, 9]}]
    )
    (finding,) = checked(root).by_severity("warning")
    assert finding.kind == "data set whose boxes and masks disagree"
    assert "(28 of 29 objects)" in finding.examples[0]
    assert "--boxes masks" in finding.action
    mended = fixed(root, tmp_path, "masks")
    np.testing.assert_allclose(mended.annotations.boxes_xywh[:28], boxes, atol=1e-4)
    assert mended.annotations.boxes_xywh[28].tolist() == [1, 1, 9, 9]  # it has no mask


def test_one_box_in_twenty_that_differs_is_only_noted(write_coco):
    boxes = squares(20)
    annotations = [{"bbox": box, "segmentation": polygon(box)} for box in boxes]
    annotations[3]["bbox"] = [300, 200, 9, 9]
    assert not checked(write_coco([NOISE], annotations)).by_severity("warning")


@pytest.mark.parametrize("annotations", [[], [{"bbox": [5, 5, 9, 9], "iscrowd": 1}], [{"bbox": [5, 5, 0, 9]}]])
def test_nothing_to_learn(write_coco, annotations):
    root = write_coco([NOISE], annotations)
    finding = checked(root).by_severity("warning")[0]
    assert finding.kind == "data set without an object"
    assert f"({len(annotations)} annotations, " in finding.examples[0]
    assert main(["check", str(root), "train"]) == 1


@pytest.mark.parametrize("flag", [1, "1", True])
def test_many_crowds(write_coco, tmp_path, capsys, flag):
    boxes = squares(8)
    objects = [{"bbox": box, "segmentation": polygon(box)} for box in boxes]
    root = write_coco([NOISE], [*objects[:5], *({**one, "iscrowd": flag} for one in objects[5:])])
    (finding,) = checked(root).by_severity("warning")
    assert finding.kind == "data set with many crowds"
    assert finding.examples[0].endswith("(3 of 8 annotations)")
    assert "--crowds-are-objects" in finding.action
    out = tmp_path / "fixed.json"
    assert main(["check", str(root), "train", "--no-images", "--fix", str(out), "--crowds-are-objects"]) == 1
    assert "3 changes" in capsys.readouterr().out
    assert CocoDataset.open(out, root / "train").num_objects().tolist() == [8]


def test_few_crowds_are_only_noted(write_coco):
    objects = [{"bbox": box, "segmentation": polygon(box)} for box in squares(20)]
    root = write_coco([NOISE], [*objects[:17], *({**one, "iscrowd": 1} for one in objects[17:])])
    assert not checked(root).by_severity("warning")


def test_options_of_a_fix_need_a_fix(write_coco, capsys):
    root = write_coco([NOISE], [])
    for options in (["--boxes", "masks"], ["--one-class", "a"], ["--crowds-are-objects"], ["--force"]):
        assert main(["check", str(root), "train", *options]) == 2
        assert "belong to --fix" in capsys.readouterr().err


# Pixels


def with_images(write_coco, names_and_pixels):
    """Write a data set whose images are these arrays, as stored."""
    root = write_coco([np.zeros(pixels.shape[:2], np.uint8) for _, pixels in names_and_pixels], [])
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    for image, (name, pixels) in zip(content["images"], names_and_pixels, strict=True):
        image["file_name"] = name
        assert cv2.imwrite(str(root / "train" / name), pixels)
    path.write_text(json.dumps(content))
    return root


def pixel_findings(root):
    report = check_dataset(CocoDataset.from_root(root, "train"))
    return {finding.kind: finding for finding in report.findings if "image" in finding.kind}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_16(write_coco, suffix):
    pixels = np.random.default_rng(0).integers(0, 1201, (30, 40)).astype(np.uint16)
    pixels[0, 0] = 1200
    found = pixel_findings(with_images(write_coco, [(f"a.{suffix}", pixels)]))
    finding = found["16-bit image that is nearly black in 8 bits"]
    assert finding.severity == "warning"
    assert finding.examples == [f"file a.{suffix} (largest value 1200 of 65535, 4 of 255 when loaded)"]


def test_16_bits_that_are_used(write_coco):
    pixels = np.random.default_rng(0).integers(0, 60000, (30, 40)).astype(np.uint16)
    assert not {kind for kind in pixel_findings(with_images(write_coco, [("a.png", pixels)])) if "black" in kind}


def test_dark_images(write_coco):
    dark, light = np.full((30, 40), 3, np.uint8), NOISE[:30, :40]
    kind = "image that is nearly black"
    one = pixel_findings(with_images(write_coco, [("a.png", dark), ("b.png", light), ("c.png", light)]))
    assert (one[kind].severity, one[kind].examples) == ("note", ["file a.png (largest value 3 of 255)"])
    most = pixel_findings(with_images(write_coco, [("a.png", dark), ("b.png", dark), ("c.png", light)]))
    assert most[kind].severity == "warning"


def test_masks_in_place_of_images(write_coco):
    mask = np.zeros((30, 40), np.uint8)
    mask[5:9] = 255
    found = pixel_findings(with_images(write_coco, [("a.png", mask)]))
    assert "is it a mask?" in found["image of black and white pixels only"].action


def test_pages(write_coco):
    root = with_images(write_coco, [("a.tif", NOISE[:30, :40])])
    assert not {kind for kind in pixel_findings(root) if "pages" in kind}
    assert cv2.imwritemulti(str(root / "train" / "a.tif"), [NOISE[:30, :40]] * 5)
    assert tiff_pages((root / "train" / "a.tif").read_bytes()) == 5
    assert pixel_findings(root)["image file with several pages"].action == "only the first page is used"


@pytest.mark.parametrize("kind", ["float32", "float64", "int32"])
def test_number_types_that_are_refused_by_name(tmp_path, kind):
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), np.ones((5, 6), kind))
    with pytest.raises(DatasetError, match=f"a.tif: the pixels are {kind}, but only unsigned integers"):
        load_image(path)


def test_negative_values_do_not_wrap(tmp_path):
    """OpenCV writes int16 as unsigned; the tag SampleFormat makes it signed."""
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), np.full((5, 6), -500, np.int16))
    assert tiff_number_type(path.read_bytes()) == "int16"
    with pytest.raises(DatasetError, match="the pixels are int16"):
        load_image(path)


def test_tags_of_geotiff_print_nothing(tmp_path, capfd):
    import struct

    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    entries = [(256, 4, 1, 6), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 4, 1, 4), (279, 4, 1, 24), (33550, 4, 1, 5), (33922, 4, 1, 5), (42113, 4, 1, 0)]
    directory = struct.pack("<H", len(entries))  # little endian: a short fills the first half of its field
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 32) + grey.tobytes() + directory + bytes(4))
    assert (load_image(tmp_path / "a.tif")[..., 0] == grey).all()
    assert capfd.readouterr().err == ""
