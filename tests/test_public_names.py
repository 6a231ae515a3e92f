"""Only public names cross between packages: what the `__init__` of a package or sub-package lists in `__all__`."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from workspace import PACKAGES, ROOT, import_name

# Benchmarks and tests that time, feed or replace parts inside a package: (file, package) and why.
INNER_PARTS = {
    ("bench/background_evaluation.py", "mrcnn_train"): "wraps the step and the evaluation to time them apart",
    ("bench/data_masks.py", "mrcnn_data"): "compares the loader's mask crops with exact coverage",
    ("tests/fuzz/parsers.py", "mrcnn_data"): "repairs random annotation files as `check --fix` does",
    ("tests/fuzz/parsers.py", "mrcnn_train"): "reads random configs as `resume=RUN` does, without a run",
    ("bench/loop_overhead.py", "mrcnn_train"): "times the step without the loop, replaces the display and the record",
    ("bench/peers/trainer.py", "mrcnn_train"): "stops the loop before each step, to take turns with another process",
    (
        "packages/mrcnn-train/tests/drill.py",
        "mrcnn_data",
    ): "ends the process before a written file gets its name",
    ("packages/mrcnn-train/tests/drill.py", "mrcnn_eval"): "runs the command in a process with a fault",
    ("bench/start.py", "mrcnn_train"): "ends the command after its first step",
}

# An import of a program in a string (run as another process): at the beginning of a line or after a semicolon.
IMPORT_IN_TEXT = re.compile(
    r"(?:^|;)[ \t]*((?:from mrcnn_[\w.]+ import [\w, ]+)|(?:import mrcnn_[\w.]+))", re.MULTILINE
)


class Use(NamedTuple):
    """A name of one of our packages, used by a file that lies outside of that package."""

    module: str
    name: str  # empty: the module itself
    line: int

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


def foreign_uses(source: str, own: str | None) -> Iterator[Use]:
    """Yield what `source` imports from our packages other than `own`, and the attributes it takes of such modules."""
    nodes = list(ast.walk(ast.parse(source)))
    modules: dict[str, str] = {}  # local name -> module
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for local_name, use in imported_uses(node):
                if is_foreign(use.module, own):
                    yield use
                    if not use.name:
                        modules[local_name] = use.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            program = "\n".join(IMPORT_IN_TEXT.findall(node.value))
            yield from (use._replace(line=node.lineno) for use in foreign_uses(program, own)) if program else ()
    for node in nodes if modules else ():
        if isinstance(node, ast.Attribute) and (module := modules.get(ast.unparse(node.value))):
            use = Use(module, node.attr, node.lineno)
            if not is_module(str(use)):
                yield use


def imported_uses(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Use]]:
    """Yield (local name, use) of an import; relative ones stay inside a package."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            use = Use(alias.name, "", node.lineno)
        elif node.level == 0 and node.module:
            use = Use(node.module, alias.name, node.lineno)
            if is_module(str(use)):
                use = Use(str(use), "", node.lineno)
        else:
            continue
        yield alias.asname or alias.name, use


def is_foreign(module: str, own: str | None) -> bool:
    package = module.partition(".")[0]
    return package.replace("_", "-") in PACKAGES and package != own


def module_path(module: str) -> Path | None:
    """Return the file of one of our modules, or None if it does not exist."""
    package = module.partition(".")[0]
    path = ROOT.joinpath("packages", package.replace("_", "-"), "src", *module.split("."))
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


@functools.cache
def is_module(name: str) -> bool:
    return module_path(name) is not None


@functools.cache
def public_names(module: str) -> set[str] | None:
    """Return `__all__` of a package or sub-package; None for other modules, and without such a list."""
    path = module_path(module)
    if path is None or path.name != "__init__.py":
        return None
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["__all__"]:
            return set(ast.literal_eval(statement.value))
    return None


def is_public(use: Use) -> bool:
    names = public_names(use.module)
    return names is not None and (not use.name or use.name in names)


@functools.cache
def private_uses() -> list[tuple[str, Use]]:
    """Return (file, use) for all Python files of the repository except this one, which has examples."""
    owners: dict[Path, str | None] = {ROOT / "packages" / package: import_name(package) for package in PACKAGES}
    found = []
    for folder, own in {**owners, ROOT / "bench": None, ROOT / "tests": None}.items():
        for path in sorted(folder.rglob("*.py")):
            if path != Path(__file__).resolve() and "build" not in path.parts:
                uses = foreign_uses(path.read_text(), own)
                found += [(path.relative_to(ROOT).as_posix(), use) for use in uses if not is_public(use)]
    return found


def package_of(use: Use) -> str:
    return use.module.partition(".")[0]


def test_only_public_names_cross_between_packages() -> None:
    found = {
        f"{file}:{use.line} uses {use}" for file, use in private_uses() if (file, package_of(use)) not in INNER_PARTS
    }
    assert not found, "\n".join(["not in the __all__ of a package or sub-package:", *sorted(found)])


def test_every_exception_is_needed() -> None:
    assert INNER_PARTS.keys() - {(file, package_of(use)) for file, use in private_uses()} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    for path in sorted((ROOT / "packages" / package / "src").rglob("__init__.py")):
        module = ".".join(path.parent.relative_to(ROOT / "packages" / package / "src").parts)
        names = public_names(module) or set()
        assert names <= defined_names(path.read_text()), module


def defined_names(source: str) -> set[str]:
    """Return what a module defines or imports, also below `if TYPE_CHECKING`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


SYNTHETIC = "mrcnn_data.synthetic"


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("from mrcnn_data import CocoDataset", []),
        ("from mrcnn_data import no_such_name", ["mrcnn_data.no_such_name"]),
        (f"from {SYNTHETIC} import generate_shapes", []),
        (f"from {SYNTHETIC}.generate import generate_shapes", [f"{SYNTHETIC}.generate.generate_shapes"]),
        ("from mrcnn_data import synthetic\nsynthetic.generate_shapes()\nsynthetic.other", [f"{SYNTHETIC}.other"]),
        (f"import {SYNTHETIC}\n{SYNTHETIC}.other", [f"{SYNTHETIC}.other"]),
        ("import mrcnn_data as d\nd.Batch\nd.other", ["mrcnn_data.other"]),
        ("import mrcnn_data.errors", ["mrcnn_data.errors"]),
        ("code = 'import sys; from mrcnn_data.errors import DatasetError\\nx()'", ["mrcnn_data.errors.DatasetError"]),
        ("code = f'import mrcnn_data.errors\\nf({x})'", ["mrcnn_data.errors"]),
        ("from mrcnn_model.config import ModelConfig", []),  # its own
        ("'Words about `import mrcnn_data.errors` alone.'", []),
    ],
)
def test_reader_of_foreign_names(source: str, private: list[str]) -> None:
    assert [str(use) for use in foreign_uses(source, "mrcnn_model") if not is_public(use)] == private
