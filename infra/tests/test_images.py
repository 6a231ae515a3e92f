"""The images have what the files of infra/eks start in them. test_docker.py builds them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# The images that IMAGE of infra/cloud.env may be.
IMAGES = ["cpu", "train"]
BROUGHT = {"boto3", "botocore"}


@pytest.fixture(scope="module")
def staging() -> dict[str, Any]:
    """The container of the staging job."""
    text = re.sub(r"\$\{\w+\}", "x", (ROOT / "infra/eks/stage.yaml").read_text())
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    return dict(container)


def third_party(module: str) -> set[str]:
    """Return the top names of what a module of infra imports, other than infra and the standard library."""
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "infra"}


def locked(dockerfile: str) -> set[str]:
    """Return the names of the packages that an image installs from poetry.lock to run."""
    (options,) = re.findall(r"python infra/locked\.py (.*) >/tmp/main\.txt", dockerfile)
    command = [sys.executable, ROOT / "infra/locked.py", *options.split()]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return {line.partition("==")[0] for line in lines}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_what_the_staging_job_runs(staging: dict[str, Any], name: str) -> None:
    python, option, module = staging["command"][:3]
    assert (python, option) == ("python", "-m")
    assert third_party(module) == BROUGHT
    dockerfile = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
    assert locked(dockerfile) >= third_party(module)
    last_stage = dockerfile.rpartition("\nFROM ")[2]
    assert ("infra", f"{staging['workingDir']}/infra") in re.findall(r"^COPY (\S+) (\S+)$", last_stage, re.MULTILINE)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_tensorboard_for_the_chart(name: str) -> None:
    assert "tensorboard.main" in (ROOT / "infra/eks/chart/templates/tensorboard.yaml").read_text()
    assert "tensorboard" in locked((ROOT / "docker" / f"{name}.Dockerfile").read_text())


def test_the_context_of_the_images_holds_the_modules_of_infra() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "!infra" in lines
    assert [line for line in lines if line.startswith("infra/")] == ["infra/tests", "infra/cloud.env"]
