"""Terminals that cannot show a character get its code; the command never ends with a traceback."""

import io
import json

import pytest

from mrcnn_eval.cli import main

NAME = "\u72ac"
CODE = b"\\u72ac"
BOX = [10, 20, 30, 40]


@pytest.fixture(params=["ascii", "latin-1"])
def terminal(request, monkeypatch):
    """Call a function with a terminal of few characters; return the exit code, and the bytes written."""

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


@pytest.fixture
def folder(scene, tmp_path):
    example = scene(categories=(1, 2))
    for number, category in enumerate(example.annotations["categories"]):
        category["name"] = NAME * (number + 1)
    example.truth(BOX).detection(BOX)
    example.truth(BOX, category=2)
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "truth.json").write_text(json.dumps(example.annotations))
    (folder / "results.json").write_text(json.dumps(example.results))
    return folder


def test_scores(folder, terminal):
    arguments = ["--annotations", str(folder / "truth.json"), "--output", str(folder / "out")]
    exit_code, printed = terminal(lambda: main(["--results", str(folder / "results.json"), *arguments]))
    assert exit_code == 0
    assert CODE in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["--results", f"{NAME}.json", "--annotations", "truth.json"],
        ["--checkpoint", NAME],
        ["--checkpoint", NAME, "--images", NAME],
        ["--results", "results.json", "--annotations", "truth.json", "--compare", NAME],
    ],
)
def test_errors_name_the_file(folder, terminal, monkeypatch, arguments):
    monkeypatch.chdir(folder)
    exit_code, printed = terminal(lambda: main(arguments))
    assert exit_code == 2
    assert CODE in printed


def test_help(terminal):
    exit_code, printed = terminal(lambda: main(["--help"]))
    assert exit_code == 0
    assert b"usage: mrcnn-eval" in printed
