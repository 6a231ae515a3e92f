"""Build gpu_check with nvcc alone and run it: compare the CUDA kernels of mrcnn-ops with the CPU kernels and time them.

Needs Python, nvcc and its C++ compiler; no TensorFlow. Without a GPU it only builds, says so and exits with 2.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
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
    objects = []
    for name, arguments in compilations(arch):
        objects.append(str(folder / f"{name}.o"))
        subprocess.run([nvcc, *NVCC_FLAGS, "-c", *arguments, "-o", objects[-1]], check=True)
    program = folder / "gpu_check"
    subprocess.run([nvcc, *objects, "-o", str(program)], check=True)
    return program


def main() -> int:
    """Build, run, and return the program's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--arch", default="native", help="nvcc's -arch, such as sm_90 (default: this machine's GPU)")
    parser.add_argument("--build-dir", type=Path, default=HERE / "build")
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
    return subprocess.run([str(program)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
