"""Sheets show the objects at the right places, before and after augmentation."""

import cv2
import numpy as np
import pytest

from mrcnn_data import Augmentation, CocoDataset, DatasetError, draw_contact_sheet
from mrcnn_data.drawing import contact_sheet
from mrcnn_data.drawing.contact_sheet import choose_images
from mrcnn_data.drawing.objects import GAP, TITLE_HEIGHT, class_color, titled
from mrcnn_data.tools.cli import main

HEIGHT, WIDTH = 480, 600  # drawn as they are: neither enlarged nor reduced
BOX = {"bbox": [100, 50, 200, 150], "segmentation": [[100, 50, 300, 50, 300, 200, 100, 200]]}


@pytest.fixture
def root(write_coco):
    images = [np.full((HEIGHT, WIDTH, 3), 60, np.uint8) for _ in range(3)]
    return write_coco(images, [{**BOX, "image_id": 1}, {**BOX, "image_id": 3, "category_id": 7}])


def sheet_of(root, tmp_path, **options):
    dataset = CocoDataset.from_root(root, "train")
    path = tmp_path / "sheet.png"
    settings = {"augmentation": Augmentation(0.0), "short_edges": [HEIGHT], "max_size": WIDTH, "variants": 1}
    draw_contact_sheet(path, dataset, [0], **{**settings, **options})
    return cv2.imread(str(path))[..., ::-1]


def tinted(picture):
    """Where the mask's colour lies over the grey of the image, edges and label left out."""
    red, green, blue = (60 * 0.55 + value * 0.45 for value in class_color(0))
    return (np.abs(picture - np.array([red, green, blue])) <= 1).all(axis=2)


def panes(sheet):
    rows = slice(TITLE_HEIGHT, TITLE_HEIGHT + HEIGHT)
    return sheet[rows, :WIDTH], sheet[rows, WIDTH + GAP : 2 * WIDTH + GAP]


def test_masks_lie_where_the_objects_are(root, tmp_path):
    sheet = sheet_of(root, tmp_path)
    assert sheet.shape == (HEIGHT + TITLE_HEIGHT, 2 * WIDTH + GAP, 3)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[51:199, 101:299] = True
    for pane in panes(sheet):
        np.testing.assert_array_equal(tinted(pane), expected)
        assert (pane[50, 100:300] == class_color(0)).all()  # the outline


def test_samples_are_augmented(root, tmp_path):
    before, after = panes(sheet_of(root, tmp_path, augmentation=Augmentation(1.0)))
    np.testing.assert_array_equal(tinted(after)[:, ::-1], tinted(before))


def test_pictures_have_names_of_classes_and_crowds(write_coco, tmp_path):
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    crowd = {"bbox": [400, 300, 100, 100], "iscrowd": 1, "segmentation": []}
    box_only = {"bbox": [350, 50, 100, 100], "segmentation": []}
    root = write_coco([image], [BOX, box_only, crowd])
    for pane in panes(sheet_of(root, tmp_path)):
        assert (pane[300:399, 400] == 150).all()  # its frame is grey
        assert not tinted(pane)[50:150, 350:450].any()
        assert (pane[60:149, 350] == class_color(0)).all()
        label = pane[38:50, 100:140]
        assert (label == class_color(0)).all(axis=2).mean() > 0.3
        assert ((label != class_color(0)).any(axis=2)).mean() > 0.1  # the writing


def test_objects_of_a_single_class_have_colors_of_their_own(write_coco, tmp_path):
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    beside = {"bbox": [300, 50, 100, 150], "segmentation": [[300, 50, 400, 50, 400, 200, 300, 200]]}
    root = write_coco([image], [BOX, beside], categories=[{"id": 3, "name": "nucleus"}])
    for pane in panes(sheet_of(root, tmp_path)):
        assert (pane[60:190, 299] == class_color(0)).all()  # the edge of the first, at the edge of the second
        assert (pane[60:190, 300] == class_color(1)).all()


def test_large_images_are_reduced(write_coco, tmp_path):
    image = np.full((960, 1440, 3), 60, np.uint8)
    segmentation = [[240, 240, 480, 240, 480, 480, 240, 480]]
    root = write_coco([image], [{"bbox": [240, 240, 240, 240], "segmentation": segmentation}])
    sheet = sheet_of(root, tmp_path, short_edges=[480], max_size=720)
    left = sheet[TITLE_HEIGHT:, :720]
    expected = np.zeros((480, 720), bool)
    expected[121:239, 121:239] = True
    np.testing.assert_array_equal(tinted(left), expected)


def test_images_with_objects_are_chosen(root, write_coco):
    dataset = CocoDataset.from_root(root, "train")
    assert choose_images(dataset, 5) == [0, 2]
    assert choose_images(dataset, 1) == [0]
    empty = CocoDataset.from_root(write_coco([np.zeros((30, 40, 3), np.uint8)] * 2, []), "train")
    assert choose_images(empty, 5) == [0, 1]


def test_command(root, tmp_path, capsys):
    out = tmp_path / "out.png"
    sizes = ["--short-edge", str(HEIGHT), "--max-size", str(WIDTH)]
    assert main(["show", str(root), "train", "--out", str(out), "--samples", "0", *sizes]) == 0
    assert capsys.readouterr().out == f"{out}: 2 of 3 images (the others have no object)\n"
    assert cv2.imread(str(out)).shape == (2 * (HEIGHT + TITLE_HEIGHT) + GAP, WIDTH, 3)
    augmented = ["--image-id", "3", "--scale-range", "0.5", "1.5", "--crop-size", "480", "--copy-paste", "1"]
    assert main(["show", str(root), "train", "--out", str(out), *augmented, *sizes]) == 0
    assert cv2.imread(str(out)).shape[0] == HEIGHT + TITLE_HEIGHT
    capsys.readouterr()
    assert main(["show", str(root), "train", "--out", str(out), "--images", "1", *sizes]) == 0
    assert capsys.readouterr().out == f"{out}: 1 of 3 images (--images N shows more)\n"


@pytest.mark.parametrize(
    ("options", "size"),
    [([], "60 x 40"), (["--short-edge", "80"], "120 x 80"), (["--max-size", "30"], "30 x 20"),
     (["--short-edge", "80", "--max-size", "90"], "90 x 60")],
)  # fmt: skip
def test_samples_have_the_size_of_the_image_unless_told(write_coco, tmp_path, monkeypatch, options, size):
    root = write_coco([np.zeros((40, 60, 3), np.uint8)], [{"bbox": [5, 5, 20, 20]}])
    titles = []
    monkeypatch.setattr(contact_sheet, "titled", lambda picture, title: titles.append(title) or titled(picture, title))
    assert main(["show", str(root), "train", "--out", str(tmp_path / "out.png"), "--samples", "1", *options]) == 0
    assert titles == ["1.png: 60 x 40, 1 objects", f"training sample 1: {size}, 1 objects"]


def test_images_that_cannot_be_read_are_left_out_and_named(root, tmp_path, capsys):
    out = tmp_path / "out.png"
    (root / "train" / "1.png").write_text("not a picture")
    options = ["--out", str(out), "--samples", "8", "--copy-paste", "1"]
    assert main(["show", str(root), "train", *options]) == 0
    output = capsys.readouterr()
    assert output.out == f"{out}: 1 of 3 images\n"
    assert output.err.startswith("mrcnn-data: left out: ")
    assert output.err.count("1.png: cannot decode the image file\n") == output.err.count("\n") == 1
    assert cv2.imread(str(out)).shape[0] == HEIGHT + TITLE_HEIGHT
    assert main(["show", str(root), "train", *options, "--image-id", "3"]) == 0
    assert capsys.readouterr().err.startswith("mrcnn-data: not pasted: ")
    assert main(["show", str(root), "train", *options, "--image-id", "1"]) == 2
    assert "1.png: cannot decode the image file" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="cannot decode the image file"):
        sheet_of(root, tmp_path)


def test_images_of_two_splits_are_told_apart(root, tmp_path, capsys, monkeypatch):
    (root / "val").symlink_to(root / "train")
    annotations = root / "annotations"
    (annotations / "instances_val.json").write_bytes((annotations / "instances_train.json").read_bytes())
    titles = []
    monkeypatch.setattr(contact_sheet, "titled", lambda picture, title: titles.append(title) or titled(picture, title))
    command = ["--out", str(tmp_path / "out.png"), "--samples", "0", "--image-id", "3"]
    assert main(["show", str(root), "train", "val", *command]) == 0
    assert [title.partition(" 600 x")[0] for title in titles] == ["train: 3.png:", "val: 3.png:"]
    assert capsys.readouterr().out.endswith("2 of 6 images\n")
    assert main(["show", str(root), "val", *command]) == 0
    assert titles[-1].startswith("3.png: 600 x 480")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-id", "9"], "--image-id=9: {annotations} has no such image"),
        (["--images", "0"], "--images=0 must be at least 1"),
        (["--samples", "-1"], "--samples=-1 must be at least 0"),
        (["--hue", "2"], "augmentation.hue=2.0 must be between 0 and 0.5"),
    ],
)
def test_options_that_cannot_work(root, tmp_path, capsys, options, message):
    assert main(["show", str(root), "train", "--out", str(tmp_path / "out.png"), *options]) == 2
    message = message.format(annotations=root / "annotations" / "instances_train.json")
    assert capsys.readouterr().err == f"mrcnn-data: {message}\n"
    assert not (tmp_path / "out.png").exists()
