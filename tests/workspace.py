"""What the tests of the workspace share: paths, wheels, environments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if (path / "pyproject.toml").exists())


def project_table(package: str) -> dict[str, Any]:
    """Return the `[project]` table of a package (`mrcnn-data`, ...)."""
    project: dict[str, Any] = read_toml(ROOT / "packages" / package / "pyproject.toml")["project"]
    return project


def read_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text())


def import_name(package: str) -> str:
    return package.replace("-", "_")


def pip(*args: str | Path, python: str | Path = sys.executable) -> str:
    """Run pip for the environment of `python` and return its output; the error of a failure has the output too."""
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *args]
    return run(command, cwd=ROOT)


def build_wheels(directory: Path) -> dict[str, Path]:
    """Build the wheel of every package as `make wheels` does; return them by package name."""
    sources = [f"./packages/{name}" for name in PACKAGES]
    pip("wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, *sources)
    wheels = {path.name.split("-")[0].replace("_", "-"): path for path in directory.glob("*.whl")}
    assert sorted(wheels) == PACKAGES
    return wheels


class Environment(NamedTuple):
    """A virtual environment outside of the repository."""

    directory: Path

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.directory / "lib" / version / "site-packages"

    def run(self, *command: str | Path, cwd: Path) -> str:
        """Run a program of this environment's `bin` in the folder `cwd`; return what it prints."""
        program, *args = command
        return run([self.directory / "bin" / program, *args], cwd=cwd)


def create_environment(directory: Path) -> Environment:
    run([sys.executable, "-m", "venv", "--without-pip", directory], cwd=directory.parent)
    return Environment(directory)


def run(command: list[str | Path], *, cwd: Path) -> str:
    """Run a command that must succeed, without this process's Python settings; return stdout and stderr together."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} exits with {done.returncode}:\n{done.stdout}"
    return done.stdout
