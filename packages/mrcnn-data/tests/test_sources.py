"""Where data sets lie: splits in COCO's layout or Roboflow's, or a file with its folder."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mrcnn_data import CocoDataset, DatasetError, find_split
from mrcnn_data.tools.cli import main

IMAGE = np.full((9, 9, 3), 90, np.uint8)
GOOD = {"bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}
COMMANDS = {"check": [], "stats": [], "show": ["--out", "sheet.png"]}


@pytest.fixture
def coco(write_coco):
    return write_coco([IMAGE], [GOOD])


@pytest.fixture
def roboflow(coco):
    (coco / "annotations/instances_train.json").rename(coco / "train/_annotations.coco.json")
    (coco / "annotations").rmdir()
    return coco


def test_roboflow_s_layout_is_a_split(roboflow, tmp_path, monkeypatch, capsys):
    assert find_split(roboflow, "train") == (roboflow / "train/_annotations.coco.json", roboflow / "train")
    assert len(CocoDataset.from_root(roboflow, "train")) == 1
    with pytest.raises(DatasetError, match=r"split 'valid' does not exist; .* has train$"):
        find_split(roboflow, "valid")
    monkeypatch.chdir(tmp_path)
    for command, options in COMMANDS.items():
        assert main([command, str(roboflow), "train", *options]) in (0, 1)
    assert main(["subset", str(roboflow), "train", "part", "--images", "1"]) == 0
    assert len(CocoDataset.from_root(tmp_path / "part", "train")) == 1
    assert main(["check", str(roboflow), "train", "--fix", "clean.json"]) in (0, 1)
    assert len(CocoDataset.open(tmp_path / "clean.json", roboflow / "train")) == 1


def test_a_split_with_both_files_is_not_guessed(coco):
    (coco / "train/_annotations.coco.json").write_bytes((coco / "annotations/instances_train.json").read_bytes())
    with pytest.raises(DatasetError, match=r"split 'train' has two annotation files, .*remove one, or name"):
        find_split(coco, "train")


def test_a_root_without_any_split_names_both_places(tmp_path):
    with pytest.raises(
        DatasetError, match=r"instances_a\.json: split 'a' does not exist, nor does .*_annotations\.coco"
    ):
        find_split(tmp_path, "a")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_with_its_folder_in_place_of_a_split(coco, tmp_path, monkeypatch, capsys, command):
    (coco / "annotations/instances_train.json").rename(coco / "my labels.json")
    (coco / "train").rename(coco / "photos")
    monkeypatch.chdir(tmp_path)
    pair = ["--annotations", str(coco / "my labels.json"), "--image-dir", str(coco / "photos")]
    assert main([command, *pair, *COMMANDS[command]]) in (0, 1)
    assert "my labels.json: 1 images" in capsys.readouterr().out or cv2.imread("sheet.png") is not None


def test_check_of_a_file_names_it_and_mends_it(coco, tmp_path, capsys):
    pair = ["--annotations", str(coco / "annotations/instances_train.json"), "--image-dir", str(coco / "train")]
    assert main(["check", *pair, "--json", str(tmp_path / "out.json"), "--fix", str(tmp_path / "clean.json")]) in (0, 1)
    assert "instances_train.json: 1 images, 1 objects" in capsys.readouterr().out
    assert main(["check", *pair, "--fix", str(coco / "annotations/instances_train.json")]) == 2
    assert "is an input of this command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give ROOT and at least one SPLIT, or --annotations FILE and --image-dir DIR"),
        (["root"], "give ROOT and at least one SPLIT"),
        (["--annotations", "a.json"], "--annotations FILE and --image-dir DIR belong together"),
        (["--image-dir", "a"], "--annotations FILE and --image-dir DIR belong together"),
        (["root", "train", "--annotations", "a.json", "--image-dir", "a"], "give either ROOT and SPLIT, or"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_sources_that_are_missing_or_given_twice(capsys, command, arguments, message):
    assert main([command, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_faults_are_said_with_the_command_that_lists_them(write_coco, capsys):
    root = write_coco([IMAGE], [GOOD, {"bbox": [1, 1, 0, 3]}])
    pair = ["--annotations", str(root / "annotations/instances_train.json"), "--image-dir", str(root / "train")]
    assert main(["stats", *pair]) == 0
    assert f"1 x dropped: see mrcnn-data check {' '.join(pair)}" in capsys.readouterr().out
