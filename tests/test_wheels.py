"""The five wheels: their metadata and files, and that they work without the repository."""

from __future__ import annotations

import sysconfig
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from workspace import PACKAGES, Environment, create_environment, import_name, pip, project_table


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Make an environment with the wheels, which uses the third-party packages of the running one.

    Python searches the folder that a .pth file names, but does not read .pth files in it. So it does not find the
    editable installs, which are such files.
    """
    environment = create_environment(tmp_path_factory.mktemp("installed") / "venv")
    pip("install", "-q", "--no-index", "--no-deps", *wheels.values(), python=environment.python)
    (environment.site_packages / "third_party.pth").write_text(sysconfig.get_path("platlib") + "\n")
    return environment


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


@pytest.mark.parametrize("package", PACKAGES)
def test_metadata_names_siblings_by_range(wheels: dict[str, Path], package: str) -> None:
    requirements = [Requirement(text) for text in metadata(wheels[package]).get_all("Requires-Dist", [])]
    siblings = {r.name: r for r in requirements if r.name in PACKAGES}
    project = project_table(package)
    extras = [text for texts in project.get("optional-dependencies", {}).values() for text in texts]
    declared = {Requirement(text).name for text in [*project["dependencies"], *extras]}
    assert set(siblings) == declared & set(PACKAGES)
    assert [r for r in requirements if r.url] == []
    for name, requirement in siblings.items():
        assert requirement.specifier.contains(project_table(name)["version"]), requirement
        # In versions 0.x, the next minor version may break its callers.
        major, minor = Version(project_table(name)["version"]).release[:2]
        assert not requirement.specifier.contains(f"{major}.{minor + 1}"), requirement


@pytest.mark.parametrize("package", PACKAGES)
def test_metadata_matches_the_project(wheels: dict[str, Path], package: str) -> None:
    headers, project = metadata(wheels[package]), project_table(package)
    assert (headers["Name"], headers["Version"]) == (package, project["version"])
    assert headers["License-Expression"] == "Apache-2.0"
    assert set(headers["Requires-Python"].split(",")) == set(project["requires-python"].split(","))


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_the_package_and_nothing_else(wheels: dict[str, Path], package: str) -> None:
    with zipfile.ZipFile(wheels[package]) as archive:
        names = archive.namelist()
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {import_name(package)}
    assert f"{import_name(package)}/py.typed" in names
    assert any(name.endswith(".so") for name in names) == (package == "mrcnn-ops")


def test_dependencies_are_met(installed: Environment) -> None:
    assert "No broken requirements found" in pip("check", python=installed.python)


@pytest.mark.parametrize("package", PACKAGES)
def test_import_away_from_the_repository(installed: Environment, tmp_path: Path, package: str) -> None:
    name = import_name(package)
    printed = installed.run("python", "-c", f"import {name}; print({name}.__file__)", cwd=tmp_path)
    assert installed.site_packages / name in Path(printed.splitlines()[-1]).parents


@pytest.mark.parametrize(
    ("command", "mentions"),
    [
        (["python", "-m", "mrcnn_train", "--help"], "+experiment="),
        (["mrcnn-eval", "--help"], "--checkpoint"),
        (["mrcnn-data", "--help"], "shapes"),
    ],
)
def test_help_away_from_the_repository(
    installed: Environment, tmp_path: Path, command: list[str], mentions: str
) -> None:
    assert mentions in installed.run(*command, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
