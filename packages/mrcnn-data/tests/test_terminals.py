"""Terminals that cannot show a character get its code; no command ends with a traceback."""

import io

import numpy as np
import pytest

from mrcnn_data.drawing.objects import write_png
from mrcnn_data.tools.cli import main

IMAGE = np.full((60, 80, 3), 90, np.uint8)
SQUARE = {"bbox": [10, 10, 30, 30], "segmentation": [[10, 10, 40, 10, 40, 40, 10, 40]]}
NAME = "\u72ac"
CODE = b"\\u72ac"


@pytest.fixture(params=["ascii", "latin-1", "cp437"])
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
def root(write_coco):
    root = write_coco([IMAGE], [SQUARE], categories=[{"id": 3, "name": NAME}])
    write_png(root / f"{NAME}.png", np.full((60, 80, 3), 255, np.uint8))
    (root / "masks").mkdir()
    write_png(root / "masks" / "1.png", np.full((60, 80, 3), 255, np.uint8))
    return root


COMMANDS = {
    "shapes": ["shapes", f"{{root}}/{NAME}", "--train", "1", "--val", "1", "--size", "64"],
    "check": ["check", "{root}", "train", "--json", "{root}/out.json"],
    "check --fix": ["check", "{root}", "train", "--fix", f"{{root}}/{NAME}.json"],
    "stats": ["stats", "{root}", "train"],
    "show": ["show", "{root}", "train", "--out", f"{{root}}/{NAME}.out.png"],
    "from-masks": ["from-masks", "{root}/train", "{root}/masks", f"{{root}}/{NAME}.json"],
    "subset": ["subset", "{root}", "train", f"{{root}}/{NAME}", "--images", "1"],
}
SAYS_A_NAME = set(COMMANDS) - {"check"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints(root, terminal, name):
    exit_code, printed = terminal(lambda: main([word.format(root=root) for word in COMMANDS[name]]))
    assert exit_code == 0
    assert (CODE in printed) == (name in SAYS_A_NAME)


@pytest.mark.parametrize("command", ["check", "stats", "show", "subset"])
def test_errors_name_the_file(root, terminal, command):
    out = [str(root / "out")] * (command == "subset")
    exit_code, printed = terminal(lambda: main([command, str(root), NAME, *out]))
    assert exit_code == 2
    assert CODE in printed


@pytest.mark.parametrize("command", ["", *sorted({words[0] for words in COMMANDS.values()})])
def test_help(terminal, command):
    exit_code, printed = terminal(lambda: main([command, "--help"] if command else ["--help"]))
    assert exit_code == 0
    assert b"usage: mrcnn-data" in printed
