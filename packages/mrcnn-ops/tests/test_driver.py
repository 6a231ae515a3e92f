"""NVIDIA's driver as a process sees it, with a pretended library; and when the build looks for nvcc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import warnings
from pathlib import Path

import pytest

import mrcnn_ops
from mrcnn_ops import Driver, Gpu, read_driver, too_old
from mrcnn_ops.library import load_library

DRIVER = """
#include <string.h>
int cuDriverGetVersion(int *version) { *version = VERSION; return BROKEN; }
int cuInit(unsigned flags) { return COUNT == 0 ? 100 : 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal >= COUNT; }
int cuDeviceGetName(char *name, int length, int device) { strcpy(name, "NVIDIA H100"); return length < 12; }
int UUID(unsigned char *uuid, int device) { memset(uuid, device, 16); return 0; }
"""
SEARCH_PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
CMAKE = shutil.which("cmake", path=SEARCH_PATH)
NVCC = shutil.which("nvcc", path=f"/usr/local/cuda/bin{os.pathsep}{SEARCH_PATH}")


@pytest.fixture
def library(tmp_path):
    """Builds a driver library with this highest version of CUDA and this many GPUs."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build a pretended driver with")

    def build(version: int, count: int, *, broken: int = 0, uuid: str = "cuDeviceGetUuid_v2") -> str:
        path = str(tmp_path / "driver.so")
        defines = [f"-DVERSION={version}", f"-DCOUNT={count}", f"-DBROKEN={broken}", f"-DUUID={uuid}"]
        subprocess.run(
            [compiler, "-shared", "-fPIC", *defines, "-xc", "-", "-o", path], input=DRIVER, text=True, check=True
        )
        return path

    return build


def test_the_driver_tells_its_version_and_its_gpus(library):
    assert read_driver(library(12090, 2)) == Driver(
        (12, 9), (Gpu("NVIDIA H100", "28" * 16), Gpu("NVIDIA H100", "29" * 16))
    )


def test_a_driver_from_before_slices_of_gpus(library):
    assert read_driver(library(11000, 1, uuid="cuDeviceGetUuid")) == Driver((11, 0), (Gpu("NVIDIA H100", "28" * 16),))


def test_a_driver_without_a_visible_gpu(library):
    assert read_driver(library(13000, 0)) == Driver((13, 0), ())


def test_no_driver_and_a_broken_one(library, tmp_path):
    assert read_driver(str(tmp_path / "absent.so")) is None
    assert read_driver(library(12090, 1, broken=803)) is None


@pytest.mark.parametrize(
    ("cuda", "num_gpus", "kernels", "is_fault"),
    [
        ((12, 4), 1, "13.0.88: 75-real 90", True),
        ((11, 8), 1, "12.9.86: 70-real 90", True),
        ((12, 4), 1, "12.9.86: 70-real 90", False),  # within a major version, older drivers run newer code
        ((13, 0), 1, "12.9.86: 70-real 90", False),
        ((12, 4), 0, "13.0.88: 75-real 90", False),
        ((12, 4), 1, "none", False),
    ],
)
def test_drivers_that_are_too_old(cuda, num_gpus, kernels, is_fault):
    driver = Driver(cuda, (Gpu("NVIDIA H100", "00"),) * num_gpus)
    assert (too_old(driver, kernels) is not None) == is_fault
    assert too_old(None, kernels) is None


def test_a_driver_that_is_too_old_is_said_at_import(tmp_path, monkeypatch):
    built = next(Path(folder) for folder in mrcnn_ops.__path__ if (Path(folder) / "libmrcnn_ops.so").exists())
    (tmp_path / "libmrcnn_ops.so").symlink_to(built / "libmrcnn_ops.so")
    info = (built / "build_info.json").read_text()
    cuda = mrcnn_ops.build_info()["cuda"]
    (tmp_path / "build_info.json").write_text(info.replace(f'"cuda": "{cuda}"', '"cuda": "13.0.88: 90"'))
    old = Driver((12, 4), (Gpu("NVIDIA H100", "00"),))
    monkeypatch.setattr("mrcnn_ops.library.read_driver", lambda: old)
    with pytest.warns(RuntimeWarning, match=r"the driver supports CUDA 12\.4, but mrcnn-ops was built with CUDA 13"):
        load_library([str(tmp_path)])
    monkeypatch.setattr("mrcnn_ops.library.read_driver", lambda: old._replace(cuda=(13, 0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_library([str(tmp_path)])


PROJECT = """cmake_minimum_required(VERSION 3.20)
project(trial LANGUAGES CXX)
set(TF_HAS_CUDA ON)
include({include})
message(STATUS "WITH_CUDA=${{WITH_CUDA}}")
"""


@pytest.mark.skipif(CMAKE is None or NVCC is None, reason="needs cmake and nvcc")
def test_nvcc_that_arrives_later_is_found(tmp_path):
    """A build folder that is kept remembers that there was no nvcc."""
    include = Path(__file__).parents[1] / "cmake/with_cuda.cmake"
    (tmp_path / "CMakeLists.txt").write_text(PROJECT.format(include=include))
    (tmp_path / "driver").touch()
    without = {name: value for name, value in os.environ.items() if name not in ("CUDACXX", "CUDA_PATH", "CUDA_HOME")}
    hidden = [folder for folder in without["PATH"].split(os.pathsep) if not (Path(folder) / "nvcc").exists()]

    def configure(path: list[str], *options: str) -> str:
        command = [CMAKE, "-S", tmp_path, "-B", tmp_path / "build", *options]
        environment = {**without, "PATH": os.pathsep.join(path)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    # Only PATH is searched, not the usual places of a toolkit.
    has_driver = (f"-DMRCNN_DRIVER_FILES={tmp_path / 'driver'}", "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF")
    first = configure(hidden, *has_driver)
    assert "WITH_CUDA=OFF" in first
    assert "has NVIDIA's driver, but no nvcc" in first
    assert "WITH_CUDA=ON" in configure([str(Path(NVCC).parent), *hidden])
    no_driver = configure([str(Path(NVCC).parent), *hidden], f"-DMRCNN_DRIVER_FILES={tmp_path / 'absent'}")
    assert "WITH_CUDA=OFF" in no_driver
    assert "no nvcc" not in no_driver
