"""Build gpu_check with nvcc alone and run it: compare the CUDA kernels of mrcnn-ops with the CPU kernels and time them.

Needs Python, nvcc and its C++ compiler; no TensorFlow. Without a GPU it only builds, says so and exits with 2.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "packages" / "mrcnn-ops" / "csrc"

# As in packages/mrcnn-ops/cmake/kernels.cmake: products and sums are not fused, so that CPU and GPU agree.
HOST_FLAGS = "-Xcompiler=-ffp-contract=off,-fno-math-errno,-Wno-psabi"
NVCC_FLAGS = ["-std=c++17", "-O3", "-fmad=false", f"-I{CSRC}", HOST_FLAGS]
IS_X86 = platform.machine() in ("x86_64", "AMD64")


def compilations(arch: str) -> list[tuple[str, list[str]]]:
    """List what to compile: name of the object file, arguments of nvcc."""
    with_avx2 = ["-DMRCNN_HAVE_AVX2"] if IS_X86 else []
    units = [
        ("gpu_check", [str(HERE / "gpu_check.cc")]),
        ("simd_portable", [str(CSRC / "cpu/simd_kernels.cc"), "-DMRCNN_ISA=portable"]),
        ("dispatch", [str(CSRC / "cpu/dispatch.cc"), *with_avx2]),
    ]
    if IS_X86:
        avx2 = [str(CSRC / "cpu/simd_kernels.cc"), "-DMRCNN_ISA=avx2", "-Xcompiler=-mavx2,-mfma,-mf16c"]
        units.append(("simd_avx2", avx2))
    units += [(f"cpu_{name}", [str(CSRC / f"cpu/{name}.cc")]) for name in ("detections", "proposals", "roi_align_plan")]
    for name in ("batch_norm", "detections", "group_norm", "matching", "proposals", "roi_align", "sgd"):
        units.append((f"cuda_{name}", [str(CSRC / f"cuda/{name}.cu"), f"-arch={arch}"]))
    return units


def build(*, nvcc: str, arch: str, folder: Path) -> Path:
    """Compile everything into `folder`; return the path of the program."""
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(unit: tuple[str, list[str]]) -> str:
        name, arguments = unit
        target = str(folder / f"{name}.o")
        subprocess.run([nvcc, *NVCC_FLAGS, "-c", *arguments, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, compilations(arch)))
    program = folder / "gpu_check"
    subprocess.run([nvcc, *objects, "-o", str(program)], check=True)
    return program


def main() -> int:
    """Build, run, and return the program's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--arch", default="native", help="nvcc's -arch, such as sm_90 (default: this machine's GPU)")
    parser.add_argument("--build-dir", type=Path, default=HERE / "build")
    parser.add_argument("--checks", action="store_true", help="only compare, as under compute-sanitizer")
    parser.add_argument("--times", action="store_true", help="only time")
    parser.add_argument("--run-with", default="", help="a command that runs the program, such as compute-sanitizer")
    arguments = parser.parse_args()
    nvcc = shutil.which(arguments.nvcc)
    if nvcc is None:
        print(f"gpu_check: {arguments.nvcc} not found: install CUDA, or name nvcc with --nvcc", file=sys.stderr)
        return 2
    try:
        program = build(nvcc=nvcc, arch=arguments.arch, folder=arguments.build_dir)
    except subprocess.CalledProcessError as error:
        print(f"gpu_check: compilation failed: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    parts = [f"--{part}" for part in ("checks", "times") if getattr(arguments, part)] or ["--checks", "--times"]
    return subprocess.run([*shlex.split(arguments.run_with), str(program), *parts], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
