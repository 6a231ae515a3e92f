"""Masks as pictures become the annotations that are those pixels."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, import_masks, instance_masks
from mrcnn_data.tools.cli import main
from mrcnn_data.tools.mask_import import write_imported

VALUES = np.zeros((8, 12), np.uint8)
VALUES[1:4, 1:5] = 1
VALUES[2:7, 4:8] = 2
VALUES[0, 11] = VALUES[7, 11] = 2  # apart from the rest of its value


@pytest.fixture
def folders(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images / "sub", masks / "sub"):
        folder.mkdir(parents=True)
    cv2.imwrite(str(images / "sub" / "a.jpg"), np.full((8, 12, 3), 100, np.uint8))
    return images, masks


def opened(folders, tmp_path, **options):
    images, masks = folders
    write_imported(tmp_path / "out.json", import_masks(images, masks, **options))
    dataset = CocoDataset.open(tmp_path / "out.json", images)
    assert not dataset.report.findings
    return dataset


def write_palette_png(path, numbers):
    """A palette PNG by hand: OpenCV writes none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = numbers.shape
    rows = b"".join(b"\0" + row.tobytes() for row in numbers)
    palette = bytes([0, 0, 0, 200, 10, 10, 200, 10, 10, 0, 0, 0])  # 2 looks like 1, and 3 like background
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", palette)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write_colours(path, values):
    colours = np.array([[0, 0, 0], [250, 0, 0], [0, 0, 250]], np.uint8)  # blue, green, red
    cv2.imwrite(str(path), colours[values])


@pytest.mark.parametrize(
    "write",
    [
        lambda path, values: cv2.imwrite(str(path), values),
        lambda path, values: cv2.imwrite(str(path), values.astype(np.uint16) * 300),
        write_colours,
        write_palette_png,
    ],
)
def test_each_value_is_an_object(folders, tmp_path, write):
    write(folders[1] / "sub" / "a.png", VALUES)
    dataset = opened(folders, tmp_path)
    assert dataset.class_names == ("object",)
    assert dataset.file_names == ["sub/a.jpg"]
    found = {mask.tobytes() for mask in instance_masks(dataset, 0)}
    assert found == {(value == VALUES).astype(np.uint8).tobytes() for value in (1, 2)}
    boxes = sorted(dataset.instances(0).boxes.tolist())
    assert boxes == [[1, 1, 5, 4], [4, 0, 12, 8]]
    assert sorted(dataset.annotations.areas) == [10, 22]


def test_a_folder_with_a_picture_for_each_object(folders, tmp_path):
    (folders[1] / "sub" / "a").mkdir()
    for value in (1, 2):
        cv2.imwrite(str(folders[1] / "sub" / "a" / f"{value}.png"), np.uint8(value == VALUES) * 255)
    dataset = opened(folders, tmp_path, class_name="cell")
    assert dataset.class_names == ("cell",)
    expected = np.stack([value == VALUES for value in (1, 2)])
    np.testing.assert_array_equal(instance_masks(dataset, 0), expected)


def test_each_region_is_an_object(folders, tmp_path):
    cv2.imwrite(str(folders[1] / "sub" / "a.png"), np.uint8(VALUES == 2))
    dataset = opened(folders, tmp_path, split_regions=True)
    assert sorted(dataset.annotations.areas) == [1, 1, 20]


@pytest.mark.parametrize("write", [lambda path, values: cv2.imwrite(str(path), values), write_palette_png])
def test_values_are_classes(folders, tmp_path, write):
    write(folders[1] / "sub" / "a.png", VALUES)
    dataset = opened(folders, tmp_path, classes={2: "dog", 1: "cat"})
    assert dataset.class_names == ("dog", "cat")
    assert sorted(dataset.annotations.classes.tolist()) == [1, 1, 1, 2]
    one = opened(folders, tmp_path, classes={1: "cat"}, ignored=[2])
    assert one.annotations.areas.tolist() == [10]


def test_images_without_a_mask_are_background(folders):
    write_mask(folders, "a.png", VALUES)
    cv2.imwrite(str(folders[0] / "b.png"), np.zeros((8, 12, 3), np.uint8))
    imported = import_masks(*folders)
    assert imported.without_mask == ["b.png"]
    assert {one["image_id"] for one in imported.content["annotations"]} == {2}
    assert imported.content["images"][0] == {"id": 1, "file_name": "b.png", "height": 8, "width": 12}


def test_folders_in_each_other(folders):
    images, masks = folders
    write_mask(folders, "a.png", VALUES)
    inside = images / "masks"
    masks.rename(inside)
    content = import_masks(images, inside).content
    assert [image["file_name"] for image in content["images"]] == ["sub/a.jpg"]
    for folder in (inside, inside / "sub"):
        with pytest.raises(DatasetError, match="the images lie in the folder of masks"):
            import_masks(folder, inside)
    with pytest.raises(DatasetError, match="none: the folder does not exist"):
        import_masks(images, images / "none")


def test_suffixes_of_any_case_and_files_of_desktops(folders):
    write_mask(folders, "a.png", VALUES)
    (folders[1] / "sub" / "a.png").rename(folders[1] / "sub" / "a.PNG")
    (folders[1] / "sub" / ".DS_Store").touch()
    assert len(import_masks(*folders).content["annotations"]) == 2


def test_an_image_named_as_a_folder_of_images(folders):
    """The masks of sub/a.jpg lie in the folder that could be sub.jpg's."""
    cv2.imwrite(str(folders[0] / "sub.jpg"), np.zeros((8, 12, 3), np.uint8))
    write_mask(folders, "a.png", VALUES)
    assert import_masks(*folders).without_mask == ["sub.jpg"]


def write_mask(folders, name, values):
    assert cv2.imwrite(str(folders[1] / "sub" / name), values)


def write_both(folders):
    (folders[1] / "sub" / "a").mkdir()
    write_mask(folders, "a/1.png", VALUES)
    write_mask(folders, "a.png", VALUES)


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda folders: write_mask(folders, "b.png", VALUES), {}, "b.png: no image belongs to this mask"),
        (lambda folders: write_mask(folders, "a.jpg", VALUES), {}, "a.jpg: not a mask: masks are .png, .bmp"),
        (lambda folders: (folders[1] / "notes.txt").touch(), {}, "notes.txt: not a mask"),
        (
            lambda folders: (write_mask(folders, "a.bmp", VALUES), write_mask(folders, "a.png", VALUES)),
            {},
            "a.png: its image already has a mask, .*a.bmp",
        ),
        (write_both, {}, "(1|a).png: its image already has a mask"),
        (lambda folders: write_mask(folders, "a.png", 0 * VALUES), {}, "masks: no object in the masks of 1 images"),
        (lambda folders: None, {}, "masks: no object in the masks of 1 images"),
        (lambda folders: write_mask(folders, "a.png", VALUES.T), {}, "a.jpg: the image is 12 x 8 pixels"),
        (lambda folders: (folders[1] / "sub" / "a.png").write_bytes(b"no"), {}, "a.png: cannot decode the image file"),
        (lambda folders: (folders[1] / "sub" / "a.png").touch(), {}, "a.png: the image file is empty"),
        (
            lambda folders: write_mask(folders, "a.png", VALUES),
            {"classes": {1: "cat"}},
            "a.png: the value 2 is neither a class nor ignored",
        ),
    ],
)
def test_what_does_not_go_together(folders, prepare, options, message):
    prepare(folders)
    with pytest.raises(DatasetError, match=message):
        import_masks(*folders, **options)


@pytest.mark.parametrize(
    ("classes", "ignored", "message"),
    [
        ({0: "bg", 1: "a"}, [], "0=bg: 0 is the background"),
        ({1: "a"}, [1], "1=a: this value is ignored, so it cannot be a class"),
    ],
)
def test_values_that_cannot_be_classes(folders, classes, ignored, message):
    with pytest.raises(ValueError, match=message):
        import_masks(*folders, classes=classes, ignored=ignored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_mask_is_read_as_stored_like_its_image(folders, tmp_path, orientation):
    height, width = VALUES.shape
    start = 8 + 2 + 12 * 10 + 4
    tags = [
        (256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, start), (274, orientation), (277, 1),
        (278, height), (279, height * width),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + VALUES.tobytes()
    (folders[1] / "sub" / "a.tif").write_bytes(tiff)
    dataset = opened(folders, tmp_path)
    np.testing.assert_array_equal(instance_masks(dataset, 0), [VALUES == 1, VALUES == 2])


def test_masks_of_one_image_have_one_size(folders):
    (folders[1] / "sub" / "a").mkdir()
    write_mask(folders, "a/1.png", VALUES)
    write_mask(folders, "a/2.png", VALUES.T)
    with pytest.raises(DatasetError, match=r"2\.png: is 8 x 12 pixels \(width x height\), not 12 x 8"):
        import_masks(*folders)


def test_command(folders, tmp_path, capsys):
    images, masks = map(str, folders)
    out = tmp_path / "out.json"
    write_colours(folders[1] / "sub" / "a.png", VALUES)
    classes = ["--classes", "#0000fa=blue", "#fa0000=red"]
    assert main(["from-masks", images, masks, str(out), *classes]) == 0
    assert capsys.readouterr().out == f"{out}: 1 images (0 without a mask), 4 objects, 2 classes\n"
    assert main(["from-masks", images, masks, str(out), "--classes", "#0000fa=blue", "--ignore", "#fa0000"]) == 0
    assert "1 objects, 1 classes" in capsys.readouterr().out
    assert main(["from-masks", images, masks, str(out), "--classes", "x=cat"]) == 2
    assert capsys.readouterr().err == "mrcnn-data: --classes=x: expected a number or #rrggbb\n"
    cv2.imwrite(str(folders[0] / "b.png"), np.zeros((8, 12, 3), np.uint8))
    assert main(["from-masks", images, masks, str(out)]) == 0
    assert capsys.readouterr().out.endswith(
        " (1 without a mask), 2 objects, 1 classes\nwithout a mask, so background: b.png\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "1"], "--classes=1: expected VALUE=NAME"),
        (["--classes", "1=a", "#000001=b"], "--classes=#000001=b: this value is 'a' already"),
        (["--classes", "0=a"], "0=a: 0 is the background"),
        (["--classes", "1=a", "--ignore", "1"], "1=a: this value is ignored, so it cannot be a class"),
        (["--classes", "1=a", "--class-name", "b"], "--class-name names all objects, --classes names them by value"),
        ([], "no object in the masks of 1 images"),
    ],
)
def test_options_that_contradict_each_other(folders, tmp_path, capsys, options, message):
    assert main(["from-masks", *map(str, folders), str(tmp_path / "out.json"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
