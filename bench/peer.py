"""Run the other side of a comparison as a process that answers line by line, each answer a JSON value."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from typing_extensions import Self


class Peer:
    """A process `python SCRIPT INPUTS THREADS OPTIONS`; the constructor waits until it is ready."""

    def __init__(self, python: Path | str, script: Path, inputs: Path, threads: int, *options: str) -> None:
        self._script = script
        self._process = subprocess.Popen(
            [python, script, inputs, str(threads), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self._answer()

    def ask(self, request: str) -> Any:
        assert self._process.stdin is not None
        print(request, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._script.name} ended with exit code {self._process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close its input, so that it ends, and wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
