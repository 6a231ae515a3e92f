"""What pip installs from poetry.lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.locked import requirements

ROOT = Path(__file__).resolve().parents[2]
LOCK = {
    "package": [
        {"name": "a", "version": "1.0", "groups": ["main"], "files": [{"hash": "sha256:01"}, {"hash": "sha256:02"}]},
        {"name": "b", "version": "2.0", "groups": ["main", "dev"], "markers": "python_version < '3.11'", "files": []},
        {
            "name": "c",
            "version": "3.0",
            "groups": ["main", "gpu"],
            "markers": {"main": "os_name == 'nt'", "gpu": "sys_platform == 'linux'"},
            "files": [],
        },
        {"name": "d", "version": "4.0", "groups": ["gpu"], "files": []},
        {"name": "own", "version": "0.1", "groups": ["main"], "files": [], "source": {"type": "directory"}},
    ]
}


def lines(*groups: str, **chosen: list[str]) -> list[str]:
    return [line.strip() for line in requirements(LOCK, groups, **chosen)]


def test_groups_markers_and_hashes() -> None:
    assert lines("main") == [
        "a==1.0 --hash=sha256:01 --hash=sha256:02",
        "b==2.0 ; (python_version < '3.11')",
        "c==3.0 ; (os_name == 'nt')",
    ]
    both = lines("main", "gpu")
    assert both[2:] == ["c==3.0 ; (os_name == 'nt') or (sys_platform == 'linux')", "d==4.0"]
    assert lines("main", "gpu", only=["d"]) == ["d==4.0"]
    assert [line[0] for line in lines("main", without=["a"])] == ["b", "c"]


def run_locked(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "infra" / "locked.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_lock_has_what_the_images_install() -> None:
    done = run_locked("--group", "gpu")
    assert done.returncode == 0, done.stderr
    names = {line.partition("==")[0] for line in done.stdout.splitlines()}
    assert {"tensorflow", "hydra-core", "nvidia-nccl-cu12", "nvidia-cudnn-cu12"} <= names
    assert all("--hash=sha256:" in line for line in done.stdout.splitlines())
    build = run_locked("--group", "dev", "--only", "pathspec", "poetry-core", "scikit-build-core", "ninja")
    assert len(build.stdout.splitlines()) == 4, build.stderr


@pytest.mark.parametrize("arguments", [("--group", "nothing"), ("--only", "nothing")])
def test_what_the_lock_has_not(arguments: tuple[str, str]) -> None:
    done = run_locked(*arguments)
    assert done.returncode == 1
    assert "nothing" in done.stderr
