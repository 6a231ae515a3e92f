"""poetry.lock: current, and free of addresses."""

from __future__ import annotations

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
def test_lock_knows_what_a_package_needs(package: str) -> None:
    """Poetry's own check compares the root's pyproject.toml only: a new need of a package would go unnoticed."""
    locked = locked_package(package)
    assert locked["version"] == project_table(package)["version"]
    assert locked["source"] == {"type": "directory", "url": f"packages/{package}"}
    needs = {r.name: r.specifier for r in map(Requirement, project_table(package)["dependencies"])}
    assert {name: specifiers(value) for name, value in locked.get("dependencies", {}).items()} == needs, (
        "run `make lock`"
    )


def specifiers(value: str | dict[str, Any]) -> SpecifierSet:
    return SpecifierSet(value if isinstance(value, str) else value["version"])


def test_lock_names_no_address() -> None:
    # Descriptions are the authors' own words; a source with an address is what Poetry writes for an index it knows.
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("description = ")]
    assert [line for line in lines if "://" in line] == []
