"""poetry.lock is current and has no addresses."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from workspace import PACKAGES, ROOT, project_table, read_toml

LOCK = ROOT / "poetry.lock"


def locked_package(name: str) -> dict[str, Any]:
    (package,) = (p for p in read_toml(LOCK)["package"] if p["name"] == name)
    return dict(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_lock_has_the_dependencies_of_each_package(package: str) -> None:
    """Poetry's own check compares only the root's pyproject.toml, so it misses a new dependency of a package."""
    locked = locked_package(package)
    assert locked["version"] == project_table(package)["version"]
    assert locked["source"] == {"type": "directory", "url": f"packages/{package}"}
    needs = {r.name: r.specifier for r in map(Requirement, project_table(package)["dependencies"])}
    assert {name: specifiers(value) for name, value in locked.get("dependencies", {}).items()} == needs, (
        "run `make lock`"
    )


def test_lock_is_of_this_pyproject() -> None:
    """Poetry refuses a lock that is older than pyproject.toml, in a fresh clone first of all."""
    python = ROOT / ".poetry" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .poetry: make setup")
    done = subprocess.run([python, "-m", "poetry", "check", "--lock"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run `make lock`: {done.stderr}"


def specifiers(value: str | dict[str, Any]) -> SpecifierSet:
    return SpecifierSet(value if isinstance(value, str) else value["version"])


def test_lock_names_no_address() -> None:
    # Descriptions may have addresses. Elsewhere, Poetry writes the address of a package index that is configured.
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("description = ")]
    assert [line for line in lines if "://" in line] == []
