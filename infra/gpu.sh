#!/usr/bin/env bash
# Makes .venv a GPU environment: CUDA's libraries by pip (group `gpu` of poetry.lock), mrcnn-ops with CUDA kernels,
# Horovod with NCCL, and with MPI where it is installed. `make gpu` calls it. What is missing is told in one line each.
# The build needs nvcc but no GPU, so a login node or an image build will do.
#
# The choice is written to .venv/gpu.env, which setup.sh and horovod/build.sh read: later builds are for GPUs too.
#
# Environment: PYTHON              the interpreter to build .venv on, as for setup.sh
#              CUDA_HOME           the CUDA toolkit, default /usr/local/cuda, else that of nvcc on the PATH
#              ARCHITECTURES       compute capabilities for mrcnn-ops, "80;90"; default those of packages/mrcnn-ops
#              HOROVOD_NCCL_HOME   NCCL, default that of pip; HOROVOD_BUILD_CUDA_CC_LIST: as Horovod reads it
#              CHECK_ONLY          "yes" tells what is missing, and builds nothing
# Exit code: 0; 1 if something that the build needs is missing, or the build failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { printf 'gpu: %s\n' "$*"; }
is_complete=yes
lacks() { say "$@"; is_complete=no; }

if [ -e /proc/driver/nvidia/version ] || [ -e /dev/dxg ]; then
  say "driver: $(nvidia-smi --query-gpu=driver_version,name --format=csv,noheader 2>/dev/null | sort | uniq -c | sed 's/^ *//' || true)"
else
  say "no driver: this machine can build, but not use GPUs; on those that shall, install NVIDIA's driver, 525 or later"
fi

cuda_home=${CUDA_HOME:-/usr/local/cuda}
if [ -z "${CUDA_HOME:-}" ] && [ ! -x "$cuda_home/bin/nvcc" ] && command -v nvcc >/dev/null; then
  cuda_home=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
fi
nvcc=$cuda_home/bin/nvcc
if release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p') && [ -n "$release" ]; then
  say "nvcc: $release at $nvcc"
  [ "${release%%.*}" -lt 13 ] || say "nvcc $release has no code for compute capability 7.0 (V100): CUDA 12.9 has"
else
  lacks "no nvcc: install the CUDA toolkit 12.9 (NVIDIA's package cuda-toolkit-12-9), or set CUDA_HOME to it"
fi

nccl=${HOROVOD_NCCL_HOME:-}
if [ -z "$nccl" ]; then
  say "NCCL headers: those of pip's nvidia-nccl-cu12, installed with the CUDA libraries"
elif [ -f "$nccl/include/nccl.h" ]; then
  say "NCCL headers: $nccl/include"
else
  lacks "no NCCL headers: $nccl/include/nccl.h does not exist; correct HOROVOD_NCCL_HOME, or unset it for pip's NCCL"
fi
if ! command -v mpicxx >/dev/null || ! command -v mpirun >/dev/null; then
  say "no MPI: Horovod is built for Gloo and NCCL alone, which is enough (Debian: libopenmpi-dev openmpi-bin)"
fi

[ $is_complete = yes ] || { say "nothing is built before this is mended"; exit 1; }
[ "${CHECK_ONLY:-no}" != yes ] || exit 0

mkdir -p .venv
{
  echo "# Written by make gpu. Without this file, make setup and make horovod build for CPUs again."
  printf 'export %s=%q\n' CUDACXX "$nvcc" ARCHITECTURES "${ARCHITECTURES:-}" HOROVOD_GPU_OPERATIONS NCCL \
    HOROVOD_CUDA_HOME "$cuda_home" HOROVOD_BUILD_CUDA_CC_LIST "${HOROVOD_BUILD_CUDA_CC_LIST:-75,80,90}" \
    HOROVOD_NCCL_HOME "$nccl" CUDAARCHS 75
} >.venv/gpu.env.new
# CMake would stay with the compiler of its cache.
cmp -s .venv/gpu.env.new .venv/gpu.env || rm -rf packages/mrcnn-ops/build
mv .venv/gpu.env.new .venv/gpu.env

say "installing the CUDA libraries of poetry.lock (3 GB), building mrcnn-ops with CUDA kernels (minutes the first time)"
infra/setup.sh
say "building Horovod with NCCL (minutes the first time)"
PYTHON=$PWD/.venv/bin/python infra/horovod/build.sh

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python - 2>"$errors" <<'END' || { tail -n 5 "$errors" >&2; say "what was built cannot be loaded: the reason is above"; exit 1; }
import horovod.tensorflow as horovod
import mrcnn_ops
import tensorflow as tf

print(f"gpu: mrcnn-ops: CUDA {mrcnn_ops.build_info()['cuda']}")
print(f"gpu: Horovod: NCCL {bool(horovod.nccl_built())}, MPI {bool(horovod.mpi_built())}")
print(f"gpu: TensorFlow sees {len(tf.config.list_physical_devices('GPU'))} GPUs")
END
