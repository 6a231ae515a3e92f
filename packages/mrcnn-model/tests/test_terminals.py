"""Terminals that cannot show a character get its code; no command ends with a traceback."""

import io

import pytest

from mrcnn_model import convert
from mrcnn_model.command import run_command
from mrcnn_model.export import saved_model

NAME = "\u72ac"
CODE = b"\\u72ac"
MAINS = {"convert": convert.main, "export": saved_model.main}
OPTIONS = {"convert": ["--to", "torchvision"], "export": []}


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


def test_output(terminal):
    exit_code, printed = terminal(lambda: run_command(lambda: print(NAME), errors=(ValueError,)))
    assert exit_code == 0
    assert CODE in printed


@pytest.mark.parametrize("command", MAINS)
def test_commands_name_a_file(terminal, command, tmp_path):
    exit_code, printed = terminal(
        lambda: MAINS[command]([str(tmp_path / NAME), str(tmp_path / "out"), *OPTIONS[command]])
    )
    assert exit_code == 1
    assert CODE in printed


@pytest.mark.parametrize("command", MAINS)
def test_help(terminal, command):
    exit_code, printed = terminal(lambda: MAINS[command](["--help"]))
    assert exit_code == 0
    assert b"usage: " in printed
