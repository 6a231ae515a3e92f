"""The `mrcnn-data` command."""

import subprocess
import sys

import numpy as np
import pytest

from mrcnn_data.cli import main


def test_shapes_then_check(tmp_path, capsys):
    assert main(["shapes", str(tmp_path), "--train", "3", "--val", "2", "--size", "64", "--seed", "1"]) == 0
    assert main(["check", str(tmp_path), "train", "val"]) == 0
    out = capsys.readouterr().out
    assert "train: 3 images" in out
    assert "val: 2 images" in out
    assert "nothing odd found" in out


def test_check_lists_what_is_odd(write_coco, capsys):
    root = write_coco([np.zeros((9, 9, 3), np.uint8)], [{"bbox": [1, 1, 0, 3], "segmentation": []}])
    assert main(["check", str(root), "train"]) == 0
    assert "dropped: 1 x box of zero or negative size (annotation 1)" in capsys.readouterr().out


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
    command = [sys.executable, "-m", "mrcnn_data.cli", "check", str(tmp_path), "val"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_no_tensorflow_comes_along():
    code = "import sys, mrcnn_data, mrcnn_data.synthetic; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
