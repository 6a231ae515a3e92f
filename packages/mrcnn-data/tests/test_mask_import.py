"""Masks as pictures become the annotations that are those pixels."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, OptionError, import_masks, instance_masks
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
    assert capsys.readouterr().out == (
        f"{out}: 1 images (0 without a mask), 4 objects, 2 classes\n"
        "note: each connected region is one object, so objects of a class that touch are one\n"
    )
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


# Masks that are not what they seem


def disc(smooth, *, size=(64, 96), centre=(48, 32), radius=20, dtype=np.uint8):
    """A white disc on black: all values between 0 and 255 lie at its edge, if it is smooth."""
    y, x = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(x - centre[0] + 0.3, y - centre[1] + 0.1)
    values = np.clip((radius - distance) * 60 + 128, 0, 255) if smooth else (distance < radius) * 255.0
    return values.astype(dtype)


@pytest.fixture
def large(folders):
    """An image whose mask has room for a disc."""
    cv2.imwrite(str(folders[0] / "sub" / "a.jpg"), np.full((64, 96, 3), 100, np.uint8))
    return folders


@pytest.mark.parametrize("as_colours", [False, True])
@pytest.mark.parametrize("options", [{}, {"split_regions": True}, {"classes": {255: "disc"}}])
def test_smooth_edges_are_no_objects(large, as_colours, options):
    smooth = disc(True)
    write_mask(large, "a.png", np.stack([smooth] * 3, axis=-1) if as_colours else smooth)
    with pytest.raises(DatasetError, match=r"a\.png: \d+ of its values are only at edges.*give --threshold 128"):
        import_masks(*large, **options)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("as_colours", [False, True])
def test_a_threshold_makes_one_object_of_a_smooth_disc(large, tmp_path, as_colours, invert):
    smooth = 255 - disc(True) if invert else disc(True)
    write_mask(large, "a.png", np.stack([smooth] * 3, axis=-1) if as_colours else smooth)
    dataset = opened(large, tmp_path, threshold=128, background=255 if invert else 0)
    np.testing.assert_array_equal(instance_masks(dataset, 0), [(smooth >= 128) != invert])


def test_smooth_edges_in_colour_have_no_threshold(large):
    red = np.stack([np.zeros_like(disc(True)), np.zeros_like(disc(True)), disc(True)], axis=-1)
    write_mask(large, "a.png", red)
    with pytest.raises(DatasetError, match=r"edges were smoothed: save masks without smoothing \([^)]*\)$"):
        import_masks(*large)


def test_a_disc_of_opencv_and_one_of_four_samples(large):
    drawn = cv2.circle(np.zeros((64, 96), np.uint8), (48, 32), 20, 255, -1, cv2.LINE_AA)
    sharp = disc(False, size=(128, 192), centre=(96.3, 64.7), radius=40)
    for mask in (drawn, cv2.resize(sharp, (96, 64), interpolation=cv2.INTER_AREA)):
        write_mask(large, "a.png", mask)
        with pytest.raises(DatasetError, match="edges were smoothed"):
            import_masks(*large)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_small_objects_are_not_smooth_edges(large, size):
    cells = np.zeros((64, 96), np.uint16)
    for number in range(60):
        y, x = divmod(number, 12)
        cells[10 * y : 10 * y + size, 8 * x : 8 * x + size] = number + 1
    write_mask(large, "a.png", cells)
    assert len(import_masks(*large).content["annotations"]) == 60


def test_touching_cells_are_not_smooth_edges(large):
    cells = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24).repeat(4, axis=0).repeat(4, axis=1)
    write_mask(large, "a.png", cells)
    assert len(import_masks(*large).content["annotations"]) == 16 * 24 - 1


@pytest.mark.parametrize("factor", [1000, 256])
def test_values_of_class_times_factor_plus_number(large, tmp_path, factor):
    values = np.zeros((64, 96), np.uint16)
    values[:, :30] = 7  # a class alone, without a name: background
    values[0:9, 40:50] = 24  # a class alone, with a name: a group
    values[20:30, 40:50] = values[20:30, 70:80] = 24 * factor  # one object in two parts, number 0
    values[40:50, 40:50] = 24 * factor + 1
    values[40:50, 50:60] = 26 * factor + 3
    write_mask(large, "a.png", values)
    dataset = opened_with_notes(large, tmp_path, class_factor=factor, classes={24: "person", 26: "car"})
    assert dataset.class_names == ("person", "car")
    table = dataset.annotations
    assert sorted(table.areas[table.is_object].tolist()) == [100, 100, 200]
    assert table.areas[table.is_crowd].tolist() == [90]
    assert table.classes[table.is_object].tolist() == [1, 1, 2]
    with pytest.raises(DatasetError, match=f"value {26 * factor + 3} is object 3 of class 26, which is neither"):
        import_masks(*large, class_factor=factor, classes={24: "person"})
    one = import_masks(*large, class_factor=factor, classes={24: "person"}, ignored=[26])
    assert len(one.content["annotations"]) == 3


def opened_with_notes(folders, tmp_path, **options):
    write_imported(tmp_path / "out.json", import_masks(*folders, **options))
    return CocoDataset.open(tmp_path / "out.json", folders[0])


@pytest.mark.parametrize("factor", [1000, 256])
def test_a_factor_that_is_not_given(large, factor):
    values = np.zeros((64, 96), np.uint16)
    values[20:30, 40:50] = 26 * factor + 1
    values[40:50, 40:50] = 26 * factor + 2
    write_mask(large, "a.png", values)
    (note,) = import_masks(*large).notes
    assert f"is {26 * factor + 2} class 26 x {factor} + 2? Then give --class-factor {factor} --classes 26=NAME" in note
    with pytest.raises(DatasetError, match=f"is {26 * factor + 1} class 26 x {factor}"):
        import_masks(*large, classes={26: "car"})


def test_numbers_in_turn_have_no_factor(folders):
    cv2.imwrite(str(folders[0] / "sub" / "a.jpg"), np.full((120, 120, 3), 100, np.uint8))
    cells = np.arange(1600, dtype=np.uint16).reshape(40, 40).repeat(3, axis=0).repeat(3, axis=1)
    write_mask(folders, "a.png", cells)
    assert import_masks(*folders).notes == []


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{image}_{class}", ["sub/a_dog", "sub/a_traffic light"]),
        ("{image}_{class}_{number}", ["sub/a_dog_1", "sub/a_traffic light_12"]),
        ("{class}/{image}", ["dog/sub/a", "traffic light/sub/a"]),
        ("{image}/{class}-{number}", ["sub/a/dog-1", "sub/a/traffic light-1"]),
        ("{image}/{number}.{class}", ["sub/a/1.dog", "sub/a/2.traffic light"]),
        ("gt/{class}_{image}", ["gt/dog_sub/a", "gt/traffic light_sub/a"]),
    ],
)
def test_names_that_carry_the_class(folders, tmp_path, pattern, names):
    for number, name in enumerate(names, start=1):
        path = folders[1] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.uint8(number == VALUES) * 255)
    dataset = opened(folders, tmp_path, names=pattern)
    assert dataset.class_names == ("dog", "traffic light")
    assert dataset.annotations.areas.tolist() == [10, 22]
    assert dataset.annotations.classes.tolist() == [1, 2]


def test_the_longest_name_of_an_image_counts(folders):
    cv2.imwrite(str(folders[0] / "sub" / "a_b.jpg"), np.full((8, 12, 3), 100, np.uint8))
    write_mask(folders, "a_b_dog.png", VALUES)
    write_mask(folders, "a_c_dog.png", VALUES)
    content = import_masks(*folders, names="{image}_{class}").content
    assert [category["name"] for category in content["categories"]] == ["c_dog", "dog"]
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 1, 2, 2]


def test_names_with_more_than_the_image(folders):
    write_mask(folders, "a_dog.png", VALUES)
    with pytest.raises(DatasetError, match=r"no image belongs to this mask; .*--names '\{image\}_dog' with \{class\}"):
        import_masks(*folders)
    with pytest.raises(DatasetError, match=r"a_dog.png: its name is not \{image\}-\{class\} with the name of an image"):
        import_masks(*folders, names="{image}-{class}")


@pytest.mark.parametrize("pattern", ["{class}", "{image}_{image}", "{image}_{kind}", "a"])
def test_patterns_that_cannot_be_used(folders, pattern):
    with pytest.raises(ValueError, match=r"expected \{image\} once, and perhaps \{class\}"):
        import_masks(*folders, names=pattern)


def test_words_in_names_of_masks_may_be_classes(folders):
    (folders[1] / "sub" / "a").mkdir()
    for name in ("dog_1", "dog_2", "cat_1", "cat_2"):
        write_mask(folders, f"a/{name}.png", VALUES)
    assert "names of masks have few words (cat, dog)" in import_masks(*folders).notes[0]


@pytest.mark.parametrize("names", [["mask_1", "mask_2", "mask_3"], ["3f9ab", "c03de", "77aa0"], ["1", "2", "3"]])
def test_words_that_are_no_classes(folders, names):
    (folders[1] / "sub" / "a").mkdir()
    for name in names:
        write_mask(folders, f"a/{name}.png", VALUES)
    assert import_masks(*folders).notes == []


@pytest.mark.parametrize("background", [255, 7])
def test_a_background_that_is_not_0(large, tmp_path, background):
    values = np.full((64, 96), background, np.uint8)
    values[10:20, 10:20] = 1
    values[30:40, 30:40] = 0
    write_mask(large, "a.png", values)
    imported = import_masks(*large)
    assert f"in 1 of 1 masks the value {background} covers most" in imported.notes[0]
    assert imported.notes[0].endswith(f"give --background {background}")
    dataset = opened(large, tmp_path, background=background)
    assert dataset.annotations.areas.tolist() == [100, 100]


def test_a_background_colour(large, tmp_path, capsys):
    white = np.full((64, 96, 3), 255, np.uint8)
    white[10:20, 10:20] = (0, 0, 250)
    write_mask(large, "a.png", white)
    out = tmp_path / "out.json"
    assert main(["from-masks", *map(str, large), str(out)]) == 0
    assert "note: in 1 of 1 masks the value 16777215 covers most of the picture" in capsys.readouterr().out
    assert main(["from-masks", *map(str, large), str(out), "--background", "#ffffff"]) == 0
    printed = capsys.readouterr().out
    assert "1 objects" in printed
    assert "note" not in printed


def test_files_of_desktops_are_left_out_and_named(folders, tmp_path, capsys):
    write_mask(folders, "a.png", VALUES)
    junk = [
        "Thumbs.db",
        "sub/Thumbs.db",
        "desktop.ini",
        "sub/._a.png",
        ".DS_Store",
        "@eaDir/a.png",
        "__MACOSX/sub/a.png",
    ]
    for name in junk:
        for folder in folders:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"no picture")
    imported = import_masks(*folders)
    assert sorted(imported.left_out) == sorted(junk)
    assert len(imported.content["images"]) == 1
    assert main(["from-masks", *map(str, folders), str(tmp_path / "out.json")]) == 0
    assert "\nleft out: .DS_Store, @eaDir/a.png," in capsys.readouterr().out


def test_two_images_that_would_share_a_mask(folders):
    cv2.imwrite(str(folders[0] / "sub" / "a.png"), np.full((8, 12, 3), 100, np.uint8))
    write_mask(folders, "a.png", VALUES)
    with pytest.raises(DatasetError, match=r"a.png: could be the mask of .*a.jpg and of .*a.png: name it a.jpg.png or"):
        import_masks(*folders)
    (folders[1] / "sub" / "a.png").rename(folders[1] / "sub" / "a.jpg.png")
    imported = import_masks(*folders)
    assert {entry["image_id"] for entry in imported.content["annotations"]} == {1}
    assert imported.without_mask == ["sub/a.png"]


def test_dots_in_names(folders):
    for name in ("a.b", "a.c"):
        cv2.imwrite(str(folders[0] / "sub" / f"{name}.png"), np.full((8, 12, 3), 100, np.uint8))
        write_mask(folders, f"{name}.png", VALUES)
    assert {entry["image_id"] for entry in import_masks(*folders).content["annotations"]} == {1, 2}


def test_touching_objects_of_a_class_are_said(large):
    two = (disc(False, centre=(30, 32), radius=15) | disc(False, centre=(58, 32), radius=15)) // 255
    write_mask(large, "a.png", two)
    (note,) = import_masks(*large, classes={1: "disc"}).notes
    assert "so objects of a class that touch are one; 1 of them have a narrow place" in note
    write_mask(large, "a.png", disc(False) // 255)
    (note,) = import_masks(*large, classes={1: "disc"}).notes
    assert note.endswith("objects of a class that touch are one")


def test_masks_of_fractions(large):
    assert cv2.imwrite(str(large[1] / "sub" / "a.tif"), disc(True).astype(np.float32) / 255)
    with pytest.raises(DatasetError, match="its values are not whole numbers"):
        import_masks(*large)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_factor": 1000}, "--class-factor=1000: must be at least 2, and needs --classes"),
        ({"class_factor": 1, "classes": {1: "a"}}, "--class-factor=1: must be at least 2"),
        ({"threshold": 5, "classes": {1: "a"}}, "--threshold=5 leaves only one value"),
        ({"names": "{image}_{class}", "classes": {1: "a"}}, "classes come from names or from --classes"),
        ({"classes": {255: "bg"}, "background": 255}, "255=bg: 255 is the background"),
    ],
)
def test_options_that_do_not_go_together(folders, options, message):
    with pytest.raises(ValueError, match=message):
        import_masks(*folders, **options)


def test_a_second_class_in_the_pattern_of_names(folders):
    with pytest.raises(OptionError, match=r"perhaps \{class\} once"):
        import_masks(*folders, names="{class}/{image}_{class}")


def test_one_class_name_and_classes_in_names(folders, capsys):
    options = ["--names", "{image}_{class}", "--class-name", "nucleus"]
    assert main(["from-masks", *map(str, folders), str(folders[0].parent / "out.json"), *options]) == 2
    assert "give one of the two" in capsys.readouterr().err
