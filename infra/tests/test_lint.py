"""yamllint and shellcheck find nothing in the cloud paths."""

import subprocess
import sys
from pathlib import Path

import pytest
import yamllint.config
import yamllint.linter

ROOT = Path(__file__).resolve().parents[2]
# What others write (third parties, caches) is not ours to check.
OURS = [ROOT / name for name in ("infra", "docker", ".ci") if (ROOT / name).is_dir()]


def found(*patterns):
    return sorted(path for folder in OURS for pattern in patterns for path in folder.rglob(pattern))


@pytest.fixture(scope="module")
def rules():
    return yamllint.config.YamlLintConfig(file=str(ROOT / ".yamllint.yaml"))


@pytest.mark.parametrize("path", found("*.yaml", "*.yml"), ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml(path, rules):
    relative = str(path.relative_to(ROOT))
    if not rules.is_file_ignored(relative):
        assert [str(problem) for problem in yamllint.linter.run(path.read_text(), rules)] == []


def test_the_rendered_chart(helm, rules):
    code, text, errors = helm("template", "run1", "infra/eks/chart", "--set", "image=r/n:1")
    assert code == 0, errors
    # Of the scripts inside.
    allowed = ("line-length", "trailing-spaces")
    problems = [problem for problem in yamllint.linter.run(text, rules) if problem.rule not in allowed]
    assert [str(problem) for problem in problems] == []


@pytest.mark.parametrize("path", found("*.sh", "*.sbatch"), ids=lambda path: str(path.relative_to(ROOT)))
def test_shell(path):
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, "--external-sources", path], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout
