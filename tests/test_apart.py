"""Each package works alone: its tests pass in an environment with its wheel, its dependencies and pytest only."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from workspace import PACKAGES, ROOT, Environment, create_environment, import_name, pip, project_table

pytestmark = pytest.mark.slow


@pytest.fixture
def constraints(tmp_path: Path) -> Path:
    """Write the versions of the running environment to a file, so that new releases do not change the outcome."""
    versions = [line for line in pip("freeze", "--exclude-editable").splitlines() if "==" in line]
    path = tmp_path / "constraints.txt"
    path.write_text("\n".join(versions))
    return path


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    environment = create_environment(tmp_path / "venv")
    yield environment
    shutil.rmtree(environment.directory)  # 2 GB with TensorFlow; pytest would keep those of three sessions


@pytest.mark.parametrize("package", PACKAGES)
def test_package_alone(
    package: str, wheels: dict[str, Path], environment: Environment, constraints: Path, tmp_path: Path
) -> None:
    folder = wheels[package].parent
    pip(
        *(
            "install",
            "-q",
            "--find-links",
            folder,
            "--constraint",
            constraints,
            wheels[package],
            "pytest",
            "hypothesis",
        ),
        python=environment.python,
    )
    installed = {import_name(name) for name in PACKAGES if (environment.site_packages / import_name(name)).is_dir()}
    assert installed == {import_name(name) for name in with_dependencies(package)}
    # The tests run from their folder. src/ is not on their path, so they import the wheel.
    tests = ROOT / "packages" / package / "tests"
    print(
        environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", tests, cwd=tmp_path)
    )


def with_dependencies(package: str) -> set[str]:
    """Return the package and the siblings that it needs, directly or indirectly."""
    direct = {Requirement(text).name for text in project_table(package)["dependencies"]} & set(PACKAGES)
    return {package}.union(*(with_dependencies(name) for name in direct))
