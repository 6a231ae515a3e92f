"""Terminals that cannot show a character get its code; the command never ends with a traceback."""

import io
import os
import subprocess
import sys

import pytest

from mrcnn_train.app import main

NAME = "\u72ac"
CODE = b"\\u72ac"


@pytest.fixture(params=["ascii", "latin-1"])
def terminal(request, monkeypatch, tmp_path):
    """Call a function with a terminal of few characters; return the exit code, and the bytes written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def call(function):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=request.param, errors="strict") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", streams[0])
            patch.setattr("sys.stderr", streams[1])
            try:
                exit_code = function()
            except SystemExit as stop:
                exit_code = stop.code
            for stream in streams:
                stream.flush()
        return exit_code, b"".join(stream.buffer.getvalue() for stream in streams)

    return call


@pytest.mark.parametrize("preflight", [False, True])
@pytest.mark.parametrize(
    "argument", [f"data.root='{NAME}'", f"+experiment='{NAME}'", f"resume='{NAME}'", f"data.{NAME}=1"]
)
def test_errors_name_what_was_given(terminal, monkeypatch, argument, preflight):
    first = [] if argument.startswith(("+", "resume")) else ["+experiment=small"]
    monkeypatch.setattr(sys, "argv", ["mrcnn_train", *first, argument])
    exit_code, printed = terminal(lambda: main(preflight=preflight))
    assert exit_code == 2
    assert CODE in printed


def test_a_plan_names_the_data(terminal, monkeypatch, shapes, tmp_path):
    (tmp_path / NAME).symlink_to(shapes)
    arguments = ["+experiment=small", f"data.root='{NAME}'", "data.train=train", "data.val=val", "dry_run=true"]
    monkeypatch.setattr(sys, "argv", ["mrcnn_train", *arguments])
    exit_code, printed = terminal(main)
    assert exit_code == 0, printed
    assert CODE in printed


def test_run_files_are_utf_8_in_any_locale(tmp_path):
    program = "import pathlib, mrcnn_train.record.run_files as f; f.replace_text(pathlib.Path('a'), '\\u72ac')"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "a").read_bytes() == NAME.encode()
