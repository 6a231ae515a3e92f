"""The drawn dataset is as documented: sizes, visibility, exact masks, the same files for the same seed."""

import filecmp

import numpy as np
import pytest
from pycocotools.coco import COCO

from mrcnn_data import CocoDataset, OptionError, OutputError, instance_masks
from mrcnn_data.synthetic import CLASS_NAMES, generate_shapes
from mrcnn_data.synthetic.scene import draw_scene


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(np.random.default_rng([5, index]), 160) for index in range(150)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(folder, train=20, val=4, size=160, seed=3)
    return folder


def test_numbers_and_sizes(scenes):
    counts = [len(scene.objects) for scene in scenes]
    assert min(counts) == 2
    assert max(counts) == 8
    edges = []
    for scene in scenes:
        for placed in scene.objects:
            rows, columns = np.flatnonzero(placed.full_mask.any(axis=1)), np.flatnonzero(placed.full_mask.any(axis=0))
            edges.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    assert min(edges) >= 12
    assert 90 <= max(edges) <= 100


def test_a_quarter_is_occluded_and_all_stay_visible(scenes):
    shares = np.array([placed.visible_share for scene in scenes for placed in scene.objects])
    assert (shares <= 0.8).mean() >= 0.25
    assert shares.min() >= 0.4


def test_visible_parts_do_not_overlap_and_nothing_else_is_drawn(scenes):
    for scene in scenes:
        assert np.sum([placed.visible_mask for placed in scene.objects], axis=0).max() == 1
        for placed in scene.objects:
            assert not (placed.visible_mask & ~placed.full_mask).any()


def test_colour_does_not_give_the_class_away(scenes):
    colours, classes = [], []
    for scene in scenes:
        for placed in scene.objects:
            colours.append(scene.image[placed.visible_mask].mean(axis=0))
            classes.append(placed.class_index)
    colours, classes = np.array(colours), np.array(classes)
    assert len(np.unique(classes)) == len(CLASS_NAMES) >= 6
    # Nearest class mean, left in favour of the guesser: no better than chance by much.
    means = np.stack([colours[classes == one].mean(axis=0) for one in range(len(CLASS_NAMES))])
    guesses = np.linalg.norm(colours[:, None] - means, axis=2).argmin(axis=1)
    assert (guesses == classes).mean() < 0.3


def test_objects_stand_out_from_what_lies_under_them(scenes):
    """Mean colours inside and in a ring just outside differ, for objects on top of everything."""
    import cv2

    differences = []
    for scene in scenes:
        top = scene.objects[-1]
        around = cv2.dilate(top.full_mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~top.full_mask
        inside, outside = scene.image[top.full_mask].mean(axis=0), scene.image[around].mean(axis=0)
        differences.append(np.linalg.norm(inside - outside))
    assert np.median(differences) > 60


def test_annotations_are_the_visible_pixels_exactly(root):
    dataset = CocoDataset.from_root(root, "train")
    assert dataset.class_names == CLASS_NAMES
    assert not dataset.report.findings
    reference = COCO(str(dataset.annotation_path))
    kinds = {"polygon": 0, "compressed": 0, "uncompressed": 0}
    for index in range(len(dataset)):
        scene = draw_scene(np.random.default_rng([3, 0, 160, index]), 160)
        np.testing.assert_array_equal(dataset.read_image(index), scene.image)
        masks = instance_masks(dataset, index)
        assert len(masks) == len(scene.objects)
        for annotation_id, mask, placed in zip(
            dataset.instances(index).annotation_ids, masks, scene.objects, strict=True
        ):
            annotation = reference.anns[annotation_id]
            np.testing.assert_array_equal(mask, placed.visible_mask)
            np.testing.assert_array_equal(reference.annToMask(annotation), placed.visible_mask)
            assert annotation["area"] == mask.sum()
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            expected = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
            assert annotation["bbox"] == expected
            assert annotation["category_id"] == placed.class_index + 1
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, list):
                kinds["polygon"] += 1
            else:
                kinds["compressed" if isinstance(segmentation["counts"], str) else "uncompressed"] += 1
    assert min(kinds.values()) > 0
    assert kinds["polygon"] > 50


def test_same_seed_same_files(root, tmp_path):
    generate_shapes(tmp_path / "again", train=20, val=4, size=160, seed=3)
    names = ["annotations/instances_train.json", "annotations/instances_val.json", "train/000020.png", "val/000004.png"]
    assert filecmp.cmpfiles(root, tmp_path / "again", names, shallow=False)[0] == names
    generate_shapes(tmp_path / "fewer", train=2, val=1, size=160, seed=3)
    assert filecmp.cmp(root / "train" / "000002.png", tmp_path / "fewer" / "train" / "000002.png", shallow=False)
    generate_shapes(tmp_path / "other", train=1, val=1, size=160, seed=4)
    assert not filecmp.cmp(root / "train" / "000001.png", tmp_path / "other" / "train" / "000001.png", shallow=False)


def test_validation_is_not_training(root):
    assert (root / "train" / "000001.png").read_bytes() != (root / "val" / "000001.png").read_bytes()


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/train: cannot make the folder: Not a directory"):
        generate_shapes(tmp_path / "file", train=1, val=1, size=64, seed=0)
    (tmp_path / "train" / "000001.png").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"000001\.png exists"):
        generate_shapes(tmp_path, train=1, val=1, size=64, seed=0)


def test_smallest_images(tmp_path):
    generate_shapes(tmp_path, train=5, val=1, size=64, seed=0)
    dataset = CocoDataset.from_root(tmp_path, "train")
    assert (dataset.num_objects() >= 2).all()


@pytest.mark.parametrize("options", [{"size": 63}, {"train": 0}, {"val": 0}, {"seed": -1}])
def test_arguments_out_of_range(tmp_path, options):
    (name,) = options
    with pytest.raises(OptionError, match=f"{name}="):
        generate_shapes(tmp_path, **{"train": 1, "val": 1, "size": 64, "seed": 0, **options})
