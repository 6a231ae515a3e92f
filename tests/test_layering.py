"""Packages depend on each other in one direction (CODEBASE.md, "Who may import whom"), as their imports show."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from workspace import PACKAGES, ROOT, project_table

# Which siblings each package may import. mrcnn_eval needs mrcnn_ops anyway, through mrcnn_model.
ALLOWED_SIBLINGS = {
    "mrcnn_ops": set(),
    "mrcnn_data": set(),
    "mrcnn_model": {"mrcnn_ops"},
    "mrcnn_eval": {"mrcnn_ops", "mrcnn_model", "mrcnn_data"},
    "mrcnn_train": {"mrcnn_ops", "mrcnn_model", "mrcnn_data", "mrcnn_eval"},
}

# Modules that serve users of another library. They import it inside of functions, and it is not a declared dependency.
ADAPTERS = {"mrcnn_data.loading.tf_dataset": "tensorflow"}


class Import(NamedTuple):
    module: str  # absolute dotted name of what is imported
    at_module_level: bool  # runs when the file is imported
    line: int


class Module(NamedTuple):
    name: str
    path: Path
    imports: list[Import]


def source_root(package: str) -> Path:
    return ROOT / "packages" / package.replace("_", "-") / "src" / package


def modules(package: str) -> list[Module]:
    files = sorted(source_root(package).rglob("*.py"))
    assert files, f"no sources of {package}"
    return [read_module(package, path) for path in files]


def read_module(package: str, path: Path) -> Module:
    *parents, stem = path.relative_to(source_root(package).parent).with_suffix("").parts
    name = ".".join(parents if stem == "__init__" else [*parents, stem])
    return Module(name, path, list(imports_of(path.read_text(), parent=".".join(parents))))


def imports_of(source: str, parent: str) -> Iterator[Import]:
    """Yield the imports in `source`, the text of a module in the package `parent`."""
    for node, at_module_level in statements(ast.parse(source).body, True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, at_module_level, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = resolve(parent, node)
            for alias in node.names:
                yield Import(f"{base}.{alias.name}", at_module_level, node.lineno)


def statements(body: list[ast.stmt], at_module_level: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield each statement below `body`, and whether it runs on import: not in functions and `if TYPE_CHECKING`."""
    for statement in body:
        inside = at_module_level and not (
            isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test))
        )
        yield statement, inside
        children = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
        children += [s for h in getattr(statement, "handlers", ()) for s in h.body]  # except clauses
        children += [s for c in getattr(statement, "cases", ()) for s in c.body]  # match cases
        yield from statements(children, inside)


def resolve(parent: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    base = parent.split(".")[: len(parent.split(".")) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def top_level(name: str) -> str:
    return name.partition(".")[0]


def where(module: Module, imported: Import) -> str:
    return f"{module.path.relative_to(ROOT)}:{imported.line} imports {imported.module}"


def offenders(package: str, forbidden: set[str]) -> list[str]:
    return [where(m, i) for m in modules(package) for i in m.imports if top_level(i.module) in forbidden]


def test_every_package_folder_has_a_rule() -> None:
    assert {name.replace("-", "_") for name in PACKAGES} == set(ALLOWED_SIBLINGS)


@pytest.mark.parametrize("package", ALLOWED_SIBLINGS)
def test_siblings_point_one_way(package: str) -> None:
    forbidden = set(ALLOWED_SIBLINGS) - ALLOWED_SIBLINGS[package] - {package}
    assert offenders(package, forbidden) == []


@pytest.mark.parametrize("package", ["mrcnn_ops", "mrcnn_data", "mrcnn_model", "mrcnn_eval"])
def test_configuration_library_stays_in_the_trainer(package: str) -> None:
    assert offenders(package, {"hydra", "omegaconf"}) == []


def test_data_does_not_import_tensorflow() -> None:
    found = [
        where(m, i)
        for m in modules("mrcnn_data")
        for i in m.imports
        if top_level(i.module) in {"tensorflow", "keras"} and (i.at_module_level or m.name not in ADAPTERS)
    ]
    assert found == []


def test_horovod_is_imported_in_one_file() -> None:
    files = {
        m.path for p in ALLOWED_SIBLINGS for m in modules(p) for i in m.imports if top_level(i.module) == "horovod"
    }
    assert len(files) <= 1, sorted(files)
    assert all("mrcnn_train" in path.parts for path in files), sorted(files)


@pytest.mark.parametrize("package", ALLOWED_SIBLINGS)
def test_modules_form_no_cycle(package: str) -> None:
    names = {module.name for module in modules(package)}

    def target(imported: str) -> str | None:
        """Return the module of an imported name: `pkg.boxes` for `pkg.boxes.iou` and for `pkg.boxes`."""
        while imported and imported not in names:
            imported = imported.rpartition(".")[0]
        return imported or None

    graph = {
        module.name: {t for i in module.imports if i.at_module_level and (t := target(i.module)) and t != module.name}
        for module in modules(package)
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"{package} imports in a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("package", ALLOWED_SIBLINGS)
def test_third_party_imports_are_declared(package: str) -> None:
    project = project_table(package.replace("_", "-"))
    declared = [
        *project["dependencies"],
        *(r for extra in project.get("optional-dependencies", {}).values() for r in extra),
    ]
    declared_names = {normalised(Requirement(requirement).name) for requirement in declared}
    providers = packages_distributions()
    undeclared = [
        where(m, i)
        for m in modules(package)
        for i in m.imports
        if (top := top_level(i.module)) not in {*sys.stdlib_module_names, package, ADAPTERS.get(m.name)}
        and not declared_names & {normalised(name) for name in providers.get(top, [top])}
    ]
    assert undeclared == []


def normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("statement", ["import mrcnn_data", "from mrcnn_eval import CocoEvaluator"])
def test_import_leaves_tensorflow_alone(statement: str) -> None:
    code = f"import sys\n{statement}\nassert not {{'tensorflow', 'keras'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b", [("a.b", True)]),
        ("from .boxes import iou, area", [("pkg.sub.boxes.iou", True), ("pkg.sub.boxes.area", True)]),
        ("from .. import rpn", [("pkg.rpn", True)]),
        ("def f():\n    import a", [("a", False)]),
        ("class C:\n    import a", [("a", True)]),
        ("if TYPE_CHECKING:\n    import a", [("a", False)]),
        ("try:\n    import a\nexcept ImportError:\n    import b", [("a", True), ("b", True)]),
        ("match x:\n    case 1:\n        import a", [("a", True)]),
    ],
)
def test_import_reader(source: str, expected: list[tuple[str, bool]]) -> None:
    assert [(i.module, i.at_module_level) for i in imports_of(source, parent="pkg.sub")] == expected
