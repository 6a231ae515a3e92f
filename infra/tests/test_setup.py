"""`make gpu` says what is missing, and later builds keep its choice; `make setup` mends a half deleted environment.

Python, pip and nvcc are stand-ins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Of an environment: logs what is installed and built, with the variables that decide for what.
PYTHON = f"""#!/bin/sh
root=$(dirname "$(dirname "$(dirname "$0")")")
log() {{ echo "$1 CUDACXX=$CUDACXX GPU=$HOROVOD_GPU_OPERATIONS" >>"$root/log"; }}
case "$*" in
  -) cat >/dev/null ;;
  "- key") exit 0 ;;
  *sys.prefix*) dirname "$(dirname "$0")" ;;
  *hashlib*) log horovod; echo key ;;
  *tensorflow*|*"import pip"*|*pip._internal*|*base_prefix*) exit 0 ;;
  "-m poetry "*|"-m pip install "*) log "$*" ;;
  "-m venv "*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *) exec {sys.executable} "$@" ;;
esac
"""
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A working copy whose environments are stand-ins; its log has a line for each installation."""
    root = tmp_path / "copy"
    for name in ("infra/gpu.sh", "infra/setup.sh", "infra/horovod/build.sh"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name in ("poetry.lock", "pyproject.toml", "packages/mrcnn-ops/pyproject.toml", "packages/mrcnn-ops/csrc/op.cc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    for name in (".venv", ".poetry"):
        write_program(root / name / "bin" / "python", PYTHON)
    return root


@pytest.fixture
def run(workspace: Path) -> Run:
    def run_script(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        unset = ("CUDACXX", "CUDA_HOME", "HOROVOD_NCCL_HOME", "HOROVOD_GPU_OPERATIONS", "ARCHITECTURES")
        inherited = {name: value for name, value in os.environ.items() if name not in unset}
        environment = {**inherited, "PYTHON": sys.executable, **variables}
        return subprocess.run(
            [workspace / "infra" / name], env=environment, capture_output=True, text=True, check=False
        )

    return run_script


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    write_program(tmp_path / "cuda/bin/nvcc", "#!/bin/sh\necho 'release 13.1, V13.1.0'\n")
    return tmp_path / "cuda"


def log(workspace: Path) -> list[str]:
    """Return the lines of the log, and empty it."""
    path = workspace / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_what_is_missing_is_a_line_each_and_nothing_is_built(run: Run, workspace: Path, tmp_path: Path) -> None:
    done = run("gpu.sh", CUDA_HOME=str(tmp_path), HOROVOD_NCCL_HOME=str(tmp_path))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert all(line.startswith("gpu: ") for line in lines)
    for start in ("gpu: no nvcc: install the CUDA toolkit 12.9", f"gpu: no NCCL headers: {tmp_path}/include/nccl.h"):
        assert sum(line.startswith(start) for line in lines) == 1, lines
    assert lines[-1] == "gpu: nothing is built before this is mended"
    assert log(workspace) == []
    assert not (workspace / ".venv" / "gpu.env").exists()


def test_a_check_builds_nothing(run: Run, workspace: Path, toolkit: Path, tmp_path: Path) -> None:
    (toolkit / "include").mkdir()
    (toolkit / "include" / "nccl.h").touch()
    done = run("gpu.sh", CHECK_ONLY="yes", CUDA_HOME=str(toolkit), HOROVOD_NCCL_HOME=str(toolkit))
    assert done.returncode == 0, done.stdout
    assert f"gpu: nvcc: 13.1 at {toolkit}/bin/nvcc" in done.stdout
    assert "no code for compute capability 7.0" in done.stdout
    assert f"gpu: NCCL headers: {toolkit}/include" in done.stdout
    assert log(workspace) == []
    assert not (workspace / ".venv" / "gpu.env").exists()


def test_later_builds_keep_the_choice_of_make_gpu(run: Run, workspace: Path, toolkit: Path) -> None:
    assert run("setup.sh").returncode == 0
    (ops,) = (line for line in log(workspace) if "packages/mrcnn-ops" in line)
    assert "MRCNN_OPS_CUDA=AUTO" in ops

    done = run("gpu.sh", CUDA_HOME=str(toolkit), ARCHITECTURES="80;90")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = log(workspace)
    (libraries,) = (line for line in lines if "-m poetry" in line)
    assert "--with gpu" in libraries
    assert_built_for_gpus(lines, toolkit)

    (workspace / "packages/mrcnn-ops/csrc/op.cc").write_text("// changed")
    assert run("setup.sh").returncode == 0
    assert_built_for_gpus([*log(workspace), *horovod_lines(run, workspace)], toolkit)
    assert run("setup.sh").returncode == 0
    assert log(workspace) == [], "nothing has changed"

    (workspace / ".venv" / "gpu.env").unlink()
    assert run("setup.sh").returncode == 0
    (ops,) = (line for line in log(workspace) if "packages/mrcnn-ops" in line)
    assert "MRCNN_OPS_CUDA=AUTO" in ops


def horovod_lines(run: Run, workspace: Path) -> list[str]:
    done = run("horovod/build.sh", PYTHON=str(workspace / ".venv/bin/python"))
    assert done.returncode == 0, done.stderr
    return log(workspace)


def assert_built_for_gpus(lines: list[str], toolkit: Path) -> None:
    (ops,) = (line for line in lines if "packages/mrcnn-ops" in line)
    assert "MRCNN_OPS_CUDA=ON" in ops
    assert "CMAKE_CUDA_ARCHITECTURES=80;90" in ops
    assert f"CUDACXX={toolkit}/bin/nvcc" in ops
    assert f"horovod CUDACXX={toolkit}/bin/nvcc GPU=NCCL" in lines


def test_a_new_environment_keeps_the_choice(run: Run, workspace: Path, toolkit: Path) -> None:
    """Another Python replaces .venv; here, a broken one is replaced."""
    assert run("gpu.sh", CUDA_HOME=str(toolkit), ARCHITECTURES="80;90").returncode == 0
    log(workspace)
    write_program(workspace / ".venv" / "bin" / "python", "#!/bin/sh\nexit 1\n")
    done = run("setup.sh", PYTHON=str(workspace / ".poetry/bin/python"))
    assert done.returncode == 0, done.stderr
    assert "creating .venv" in done.stdout
    assert_built_for_gpus([*log(workspace), *horovod_lines(run, workspace)], toolkit)


def test_a_toolkit_that_is_gone_is_named(run: Run, workspace: Path, toolkit: Path) -> None:
    assert run("gpu.sh", CUDA_HOME=str(toolkit)).returncode == 0
    shutil.rmtree(toolkit)
    done = run("setup.sh")
    assert done.returncode == 1
    assert done.stderr == (
        f"setup: {toolkit}/bin/nvcc does not exist any more: run make gpu again, "
        "or delete .venv/gpu.env to build for CPUs\n"
    )


def test_a_half_deleted_environment_is_made_again(run: Run, workspace: Path) -> None:
    """`venv --clear` was killed: no pyvenv.cfg any more, but the stamps of the environment before it."""
    python = str(workspace / ".poetry/bin/python")
    assert run("setup.sh", PYTHON=python).returncode == 0
    log(workspace)
    (workspace / ".venv/bin/python").unlink()
    (workspace / ".venv/bin/python").symlink_to(Path(sys.executable).resolve())
    done = run("setup.sh", PYTHON=python)
    assert done.returncode == 0, done.stderr
    assert "creating .venv" in done.stdout
    assert any("-m poetry" in line for line in log(workspace))


@pytest.mark.parametrize("target", ["horovod", "gpu"])
def test_the_python_of_make_is_the_one_to_build_the_environment_on(target: str) -> None:
    """Horovod is built for .venv, also where PYTHON is set as setup.sh asks for it."""
    command = ["make", "--dry-run", "--no-print-directory", "-C", str(ROOT), target]
    environment = {**os.environ, "PYTHON": "python3.11"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1]
    expected = {
        "horovod": f"PYTHON={ROOT}/.venv/bin/python infra/horovod/build.sh",
        "gpu": "PYTHON=python3.11 infra/gpu.sh",
    }
    assert last == expected[target]
