#!/usr/bin/env bash
# Makes .venv a GPU environment: `make gpu` calls it after `make setup`. It installs TensorFlow's CUDA libraries, compiles
# mrcnn-ops with its CUDA kernels, and builds Horovod with NCCL (and with MPI, if Open MPI is installed).
# One line says what is missing. Without nvcc nothing is changed; without a driver all is built, for another machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}

say() { printf 'gpu: %s\n' "$*"; }
fail() { printf 'gpu: %s\n' "$*" >&2; exit 1; }

find_nvcc() {
  local found
  for found in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc"; do
    if [ -n "$found" ] && [ -x "$found" ]; then echo "$found"; return; fi
  done
}

if command -v nvidia-smi >/dev/null && driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null); then
  say "driver ${driver%%$'\n'*}, $(wc -l <<<"$driver") GPUs"
else
  say "no NVIDIA driver here: what is built will run on machines that have one (525 or newer)"
fi
nvcc=$(find_nvcc)
[ -n "$nvcc" ] || fail "nvcc is missing, which compiles the kernels: install the CUDA 12 toolkit, or set CUDACXX=/path/to/nvcc"
release=$("$nvcc" --version | sed -nE 's/.*release ([0-9]+\.[0-9]+).*/\1/p')
say "nvcc $release at $nvcc$([ "${release%%.*}" -lt 13 ] || echo ": no code for V100, which needs CUDA 12")"
command -v mpicxx >/dev/null || say "no Open MPI (Debian: libopenmpi-dev openmpi-bin): Horovod will have Gloo and NCCL only"

say "installing TensorFlow's CUDA libraries (3 GB)"
"$python" infra/locked.py --group gpu --without tensorflow |
  "$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r /dev/stdin
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/nccl/include/nccl.h
[ -f "$headers" ] || [ -n "${HOROVOD_NCCL_HOME:-}" ] ||
  fail "NCCL's headers are missing ($headers): set HOROVOD_NCCL_HOME to a folder with include/nccl.h"

say "compiling mrcnn-ops with CUDA kernels"
CUDACXX=$nvcc "$python" -m pip install -q --disable-pip-version-check --no-index --no-deps --no-build-isolation \
  --config-settings=cmake.define.MRCNN_OPS_CUDA=ON -e packages/mrcnn-ops

say "building Horovod with NCCL"
# Its few kernels: code for 7.5, 8.0 and 9.0, which the driver translates for newer GPUs.
PYTHON=$python HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$(dirname "$(dirname "$nvcc")") \
  HOROVOD_BUILD_CUDA_CC_LIST=75,80,90 CUDAARCHS=75 infra/horovod/build.sh
say "ready"
