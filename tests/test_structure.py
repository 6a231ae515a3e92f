"""Limits of size for the sources in packages/*/src, with argued exceptions: files, folders, functions, complexity."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from workspace import ROOT

LIMITS = {
    "file lines": 350,
    "folder modules": 14,  # without __init__ and __main__
    "body lines": 45,  # of a function, without its signature and docstring
    "complexity": 15,  # cyclomatic, as ruff's rule C901 counts it
}

# What may be larger, and why: (limit, place). A place is a path below src, for functions followed by `:name`.
EXCEPTIONS: dict[tuple[str, str], str] = {}


class Size(NamedTuple):
    limit: str  # a key of LIMITS
    place: str  # as in EXCEPTIONS
    value: int


def sources() -> list[Path]:
    return sorted((ROOT / "packages").glob("*/src/**/*.py"))


def place(path: Path) -> str:
    """Return the path below `src`."""
    return Path(*path.parts[path.parts.index("src") + 1 :]).as_posix()


def file_sizes() -> Iterator[Size]:
    for path in sources():
        yield Size("file lines", place(path), len(path.read_text().splitlines()))


def folder_sizes() -> Iterator[Size]:
    for folder in sorted({path.parent for path in sources()}):
        modules = [path for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__")]
        yield Size("folder modules", place(folder), len(modules))


def body_sizes() -> Iterator[Size]:
    for path in sources():
        for name, lines in bodies(path.read_text()):
            yield Size("body lines", f"{place(path)}:{name}", lines)


def bodies(source: str) -> Iterator[tuple[str, int]]:
    """Yield each function's name and the number of lines of its body."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            last_line = body[-1].end_lineno if body else None
            yield node.name, last_line - body[0].lineno + 1 if last_line is not None else 0


def complexities(paths: list[Path], above: int) -> Iterator[Size]:
    """Yield the functions that are more complex than `above`."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "C901", "--output-format", "json"]
    command += ["--exit-zero", "--config", f"lint.mccabe.max-complexity={above}", *map(str, paths)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for finding in json.loads(printed):
        name = finding["message"].split("`")[1]
        value = int(finding["message"].rpartition("(")[2].partition(" ")[0])
        yield Size("complexity", f"{place(Path(finding['filename']))}:{name}", value)


@pytest.fixture(scope="module")
def too_large() -> list[Size]:
    sizes = [*file_sizes(), *folder_sizes(), *body_sizes(), *complexities(sources(), LIMITS["complexity"])]
    return [size for size in sizes if size.value > LIMITS[size.limit]]


@pytest.mark.parametrize("limit", LIMITS)
def test_sizes_stay_within_the_limit(too_large: list[Size], limit: str) -> None:
    found = [size for size in too_large if size.limit == limit and (limit, size.place) not in EXCEPTIONS]
    assert not found, "\n".join(f"{size.place}: {size.value} {limit}, at most {LIMITS[limit]}" for size in found)


def test_every_exception_is_needed_and_argued(too_large: list[Size]) -> None:
    assert EXCEPTIONS.keys() - {(size.limit, size.place) for size in too_large} == set()
    assert [key for key, reason in EXCEPTIONS.items() if len(reason.split()) < 3] == []


def test_measures_see_the_sources() -> None:
    for measure in (file_sizes, folder_sizes, body_sizes):
        assert max(size.value for size in measure()) > 5


def test_body_of_a_function() -> None:
    head = '@decorator\ndef f(\n    a,\n    b,\n):\n    """Docstring,\n\n    long."""\n'
    body = "    a = (\n        b\n    )\n    return a\n"
    assert list(bodies(head + body)) == [("f", 4)]
    assert list(bodies('class C:\n    def g(self):\n        """Only a docstring."""\n')) == [("g", 0)]
    assert dict(bodies("def outer():\n    def inner():\n        pass\n    return inner\n")) == {"outer": 3, "inner": 1}


def test_complexity_of_a_function(tmp_path: Path) -> None:
    path = tmp_path / "src" / "module.py"
    path.parent.mkdir()
    path.write_text("def f(a):\n" + "".join(f"    if a == {n}:\n        return {n}\n" for n in range(4)))
    assert list(complexities([path], above=4)) == [Size("complexity", "module.py:f", 5)]
    assert list(complexities([path], above=5)) == []
