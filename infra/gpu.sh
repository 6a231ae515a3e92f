#!/usr/bin/env bash
# Makes .venv a GPU environment: CUDA's libraries by pip (extra `gpu`, versions of poetry.lock), mrcnn-ops with CUDA
# kernels, Horovod with NCCL, and with MPI where it is installed. `make gpu` calls it. What is missing is told in one line
# each. The build needs nvcc but no GPU, so a login node or an image build will do.
#
# Environment: PYTHON         the interpreter of the environment, default .venv/bin/python
#              CUDA_HOME      the CUDA toolkit, default /usr/local/cuda, else that of nvcc on the PATH
#              ARCHITECTURES  compute capabilities for mrcnn-ops, "80;90"; default those of packages/mrcnn-ops
#              CHECK_ONLY     "yes" tells what is missing, and builds nothing
# Exit code: 0; 1 if something that the build needs is missing.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
say() { printf 'gpu: %s\n' "$*"; }

cuda_home=${CUDA_HOME:-/usr/local/cuda}
if [ -z "${CUDA_HOME:-}" ] && [ ! -x "$cuda_home/bin/nvcc" ] && command -v nvcc >/dev/null; then
  cuda_home=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
fi
nvcc=$cuda_home/bin/nvcc
has_nvcc=yes has_nccl=yes

if [ -e /proc/driver/nvidia/version ] || [ -e /dev/dxg ]; then
  say "driver: $(nvidia-smi --query-gpu=driver_version,name --format=csv,noheader 2>/dev/null | sort | uniq -c | sed 's/^ *//' || true)"
else
  say "no driver: this machine cannot use GPUs, only build for them; NVIDIA's driver must be 525 or later"
fi
if release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p') && [ -n "$release" ]; then
  say "nvcc: $release at $nvcc"
  [ "${release%%.*}" -lt 13 ] || say "nvcc $release has no code for compute capability 7.0 (V100): CUDA 12.9 has"
else
  has_nvcc=no
  say "no nvcc: install the CUDA toolkit 12.9 (NVIDIA's package cuda-toolkit-12-9), or set CUDA_HOME to it"
fi
if ! command -v mpicxx >/dev/null || ! command -v mpirun >/dev/null; then
  say "no MPI: Horovod is built for Gloo and NCCL alone, which is enough (Debian: libopenmpi-dev openmpi-bin)"
fi

if [ "${CHECK_ONLY:-no}" != yes ]; then
  say "installing the CUDA libraries of poetry.lock (3 GB)"
  requirements=$(mktemp)
  trap 'rm -f "$requirements"' EXIT
  "$python" "$root/infra/locked.py" --group gpu >"$requirements"
  "$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r "$requirements"
fi
site_packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for header in "${HOROVOD_NCCL_HOME:-/nonexistent}/include" "$site_packages/nvidia/nccl/include" /usr/include; do
  [ -f "$header/nccl.h" ] && { say "NCCL headers: $header"; break; }
done || { has_nccl=no; say "no NCCL headers: they come with pip's nvidia-nccl-cu12, or set HOROVOD_NCCL_HOME"; }

[ "$has_nvcc$has_nccl" = yesyes ] || { say "not built, see above"; exit 1; }
[ "${CHECK_ONLY:-no}" != yes ] || exit 0

say "building mrcnn-ops with CUDA kernels (minutes)"
options=(--config-settings=cmake.define.MRCNN_OPS_CUDA=ON)
[ -z "${ARCHITECTURES:-}" ] || options+=("--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=$ARCHITECTURES")
CUDACXX=$nvcc "$python" -m pip install -q --disable-pip-version-check --no-index --no-deps --no-build-isolation \
  "${options[@]}" -e "$root/packages/mrcnn-ops"

say "building Horovod with NCCL (minutes the first time)"
PYTHON=$python HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=$cuda_home CUDAARCHS=75 \
  HOROVOD_BUILD_CUDA_CC_LIST=${HOROVOD_BUILD_CUDA_CC_LIST:-75,80,90} "$root/infra/horovod/build.sh"

TF_CPP_MIN_LOG_LEVEL=3 "$python" - <<'END' 2>/dev/null
import horovod.tensorflow as horovod
import mrcnn_ops
import tensorflow as tf

print(f"gpu: mrcnn-ops: CUDA {mrcnn_ops.build_info()['cuda']}")
print(f"gpu: Horovod: NCCL {bool(horovod.nccl_built())}, MPI {bool(horovod.mpi_built())}")
print(f"gpu: TensorFlow sees {len(tf.config.list_physical_devices('GPU'))} GPUs")
END
