"""The `mrcnn-data` command."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mrcnn_data.tools import commands
from mrcnn_data.tools.cli import main


def test_shapes_then_check(tmp_path, capsys):
    assert main(["shapes", str(tmp_path), "--train", "12", "--val", "9", "--size", "64", "--seed", "1"]) == 0
    assert main(["check", str(tmp_path), "train", "val"]) == 0
    out = capsys.readouterr().out
    assert "train: 12 images" in out
    assert "val: 9 images" in out
    assert "nothing odd found" in out


def test_check_lists_what_is_odd(write_coco, capsys):
    root = write_coco([np.zeros((9, 9, 3), np.uint8)], [{"bbox": [1, 1, 0, 3], "segmentation": []}])
    assert main(["check", str(root), "train"]) == 1
    assert "dropped: 1 x box of zero or negative size (annotation 1)" in capsys.readouterr().out


def test_check_as_json(write_coco, tmp_path, capsys):
    root = write_coco([np.zeros((9, 9, 3), np.uint8)], [{"category_id": 99}, {"iscrowd": ..., "bbox": [1, 1, 5, 3]}])
    assert main(["check", str(root), "train", "val", "--json", str(tmp_path / "out.json")]) == 2
    assert "split 'val' does not exist" in capsys.readouterr().err
    train, val = json.loads((tmp_path / "out.json").read_text())
    assert (train["split"], train["images"], train["objects"], train["classes"]) == ("train", 1, 1, 2)
    assert train["exit_code"] == 2
    by_kind = {finding["kind"]: finding for finding in train["findings"]}
    unknown = by_kind["annotation of an unknown category"]
    assert (unknown["severity"], unknown["count"], unknown["examples"]) == ("error", 1, ["annotation 1"])
    assert "training refuses the file" in unknown["action"]
    assert by_kind["iscrowd missing"]["severity"] == "note"
    assert val == {"split": "val", "error": val["error"], "exit_code": 2}


def test_check_says_what_is_scored(write_coco, tmp_path, capsys):
    square = {"bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]}
    changes = [{}, {"segmentation": []}, {"iscrowd": 1}, {"ignore": 1}, {"bbox": [1, 1, 0, 5]}]
    root = write_coco([np.zeros((9, 9, 3), np.uint8)], [{**square, **change} for change in changes])
    assert main(["check", str(root), "train", "--json", str(tmp_path / "out.json")]) == 1
    assert (
        "    2 objects train and are scored; 1 of them by box only (no usable mask: a region to ignore for mask AP); "
        "1 crowds neither train nor have to be found; "
        "1 with ignore do not train, and have to be found only without honor_ignore; "
        "1 annotations without a usable box neither train nor are scored"
    ) in capsys.readouterr().out.splitlines()
    (train,) = json.loads((tmp_path / "out.json").read_text())
    assert train["scored"] == {"objects": 2, "box_only": 1, "crowds": 1, "ignored": 1, "unused": 1}


def test_check_says_what_an_error_is_about(write_coco, tmp_path, capsys):
    bad = [{"category_id": 99}, {"category_id": 98}, {"image_id": 7}, {"id": "x", "image_id": []}]
    root = write_coco([np.zeros((9, 9, 3), np.uint8)], [*bad, *[{"bbox": [1, 1, 0, 3]}] * 6])
    (root / "train" / "1.png").unlink()
    assert main(["check", str(root), "train"]) == 2
    path = root / "annotations" / "instances_train.json"
    lines = capsys.readouterr().out.splitlines()
    for message in (
        f"    first: {path}: annotation 1 has category 99, which is not in the list of categories (3, 7)",
        f"    {path}: annotation 3 belongs to image 7, which is not in the list of images",
        f"    {root / 'train' / '1.png'}: the file of image 1 is missing (listed in {path})",
    ):
        assert message in lines
    assert any("is not a COCO instances file: Expected `" in line and "in annotations[3]" in line for line in lines)
    assert lines[-1] == "--json OUT lists more than 5 of each (the first 1000)"
    assert main(["check", str(root), "train", "--json", str(tmp_path / "out.json")]) == 2
    assert "--json" not in capsys.readouterr().out
    (train,) = json.loads((tmp_path / "out.json").read_text())
    (dropped,) = (finding for finding in train["findings"] if finding["severity"] == "dropped")
    assert dropped["examples"] == [f"annotation {number}" for number in range(5, 11)]


@pytest.mark.parametrize("command", ["stats", "show"])
def test_faults_are_mentioned(write_coco, tmp_path, capsys, command):
    image = np.zeros((9, 9, 3), np.uint8)
    good, out = {"bbox": [1, 1, 5, 3], "segmentation": []}, ["--out", str(tmp_path / "out.png")]
    options = out if command == "show" else []
    root = write_coco([image], [good, {"category_id": 99}, {"bbox": [1, 1, 0, 3]}, {"bbox": [1, 1, 3, 0]}])
    assert main([command, str(root), "train", *options]) == 0
    assert f"1 x error, 2 x dropped: see mrcnn-data check {root} train\n" in capsys.readouterr().out
    assert main([command, str(write_coco([image], [good])), "train", *options]) == 0
    assert "see mrcnn-data check" not in capsys.readouterr().out


def test_check_and_fix(write_coco, tmp_path, capsys):
    square = [[1, 1, 6, 1, 6, 4, 1, 4]]
    annotations = [{"bbox": [1, 1, 0, 3]}, {"bbox": [1, 1, 5, 3], "segmentation": square}]
    root = write_coco([np.full((9, 9, 3), 90, np.uint8)], annotations)
    out = root / "annotations" / "instances_clean.json"
    assert main(["check", str(root), "train", "--fix", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["check", str(root), "train", "--fix", str(out), "--force"]) == 1
    assert "1 changes, listed in" in capsys.readouterr().out
    assert out.with_suffix(".changes.txt").read_text() == "annotation 1: removed: no usable box\n"
    (root / "clean").symlink_to(root / "train")
    assert main(["check", str(root), "clean"]) == 0
    assert main(["check", str(root), "train", "clean", "--fix", str(out)]) == 2
    assert main(["check", str(root), "train", "--fix", str(root / "annotations" / "instances_train.json")]) == 2


def test_a_fix_says_that_boxes_are_scored_differently(write_coco, capsys):
    """The second box sticks out by less than rounding, the third is removed with its category."""
    boxes = [{"bbox": [5, 1, 9, 3]}, {"bbox": [5, 1, 4.5, 3]}, {"bbox": [5, 1, 9, 3], "category_id": 99}]
    root = write_coco([np.zeros((9, 9, 3), np.uint8)], boxes)
    main(["check", str(root), "train", "--fix", str(root / "clean.json"), "--force"])
    assert (
        "    1 boxes were clipped to their image. An evaluation scores the boxes of its file: do not compare an AP on "
        "clean.json with one on instances_train.json"
    ) in capsys.readouterr().out.splitlines()
    fixed = json.loads((root / "clean.json").read_text())["annotations"]
    assert [entry["bbox"] for entry in fixed] == [[5, 1, 4, 3], [5, 1, 4.5, 3]]


@pytest.mark.parametrize("name", ["stats", "check"])
def test_a_closed_pipe_ends_the_command_quietly(write_coco, name):
    """`stats` prints tables with rich, which would end with another code."""
    root = write_coco([np.zeros((9, 9, 3), np.uint8)], [{"bbox": [1, 1, 5, 3]}])
    command = [sys.executable, "-m", "mrcnn_data.tools.cli", name, str(root), "train"]
    reader, writer = os.pipe()
    os.close(reader)  # the reader has ended before the first line
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_interrupt_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "generate_shapes", interrupted)
    assert main(["shapes", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "mrcnn-data: interrupted\n"


def test_errors_are_one_line_and_an_exit_code(tmp_path, capsys):
    assert main(["check", str(tmp_path), "train"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "split 'train' does not exist" in error
    assert main(["shapes", str(tmp_path), "--size", "5"]) == 2
    assert "size=5" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    for command in (["shapes", str(tmp_path / "file")], ["check", str(tmp_path), "long" * 100]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main([])


def test_as_a_module(tmp_path):
    command = [sys.executable, "-m", "mrcnn_data.tools.cli", "check", str(tmp_path), "val"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_no_tensorflow_comes_along():
    code = "import sys, mrcnn_data, mrcnn_data.synthetic; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_faults_of_the_program_are_not_called_faults_of_the_user(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(commands, "generate_shapes", broken)
    with pytest.raises(ValueError, match="broadcast"):
        main(["shapes", str(tmp_path)])
