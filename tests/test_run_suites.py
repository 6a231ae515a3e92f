"""The runner of all suites: what it counts, prints and returns."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_suites
from workspace import PACKAGES, ROOT

PASSES = "def test_a(): pass\n"
SUITES = {
    "good": PASSES + "import pytest\ndef test_b(): pytest.skip('why')\n",
    "bad": PASSES + "def test_b(): assert 'this' == 'that'\n",
    "crash": "import os\ndef test_a(): os._exit(3)\n",
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, source in SUITES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"test_{name}.py").write_text(source)
    monkeypatch.setattr(run_suites, "ROOT", tmp_path)
    return tmp_path


def run(workspace: Path, monkeypatch: pytest.MonkeyPatch, *names: str, arguments: tuple[str, ...] = ()) -> int:
    monkeypatch.setattr(run_suites, "suites", lambda: [workspace / name for name in names])
    return run_suites.main([*arguments, "-q", "-p", "no:cacheprovider"])


def test_failures_and_crashes_are_counted(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, monkeypatch, "good", "bad", "crash", arguments=("--jobs", "3")) == 1
    printed = capsys.readouterr().out
    assert "1 failed, 2 passed, 1 skipped, 1 errors in " in printed.splitlines()[-1]
    assert "assert 'this' == 'that'" in printed
    assert "FAILED (pytest exit code 3)" in printed


def test_passing_suites_and_suites_without_selected_tests(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, monkeypatch, "good") == 0
    assert " 1 passed, 1 skipped in " in capsys.readouterr().out.splitlines()[-1]
    assert run(workspace, monkeypatch, "good", arguments=("-k", "nothing")) == 1
    assert " no tests ran in " in capsys.readouterr().out.splitlines()[-1]


def test_every_package_is_run_once() -> None:
    folders = [folder.relative_to(ROOT).as_posix() for folder in run_suites.suites()]
    assert sorted(folders) == sorted([*(f"packages/{name}/tests" for name in PACKAGES), "tests", "infra/tests"])
