#!/usr/bin/env bash
# Builds a wheel of Horovod for the TensorFlow of an environment, keeps it in .horovod/wheels/ and installs it.
# `make horovod` calls it for .venv. The first call takes minutes (3.5 on two cores), a call with a wheel in the cache
# seconds, and a call with that wheel installed does nothing.
#
# Environment: PYTHON  the interpreter of the environment, default .venv/bin/python
#              CACHE   where wheels are kept, default .horovod/wheels of this repository
#              HOROVOD_GPU_OPERATIONS=NCCL for GPUs; NCCL is that of HOROVOD_NCCL_HOME, or of pip's nvidia-nccl-cu12
#              other variables that Horovod's build reads (HOROVOD_CUDA_HOME, HOROVOD_BUILD_CUDA_CC_LIST)
#              JOBS    number of compiler processes, default 2
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
version=0.28.1  # from 2023, the last one
python=${PYTHON:-$root/.venv/bin/python}
cache=${CACHE:-$root/.horovod/wheels}
jobs=${JOBS:-2}

say() { printf 'horovod: %s\n' "$*"; }
fail() { printf 'horovod: %s\n' "$*" >&2; exit 1; }

"$python" -c 'from importlib.metadata import version; version("tensorflow")' 2>/dev/null ||
  fail "$python has no TensorFlow: run make setup, or set PYTHON to a Python that has it"

# What `make gpu` chose for this environment.
choice=$("$python" -c 'import sys; print(sys.prefix)')/gpu.env
# shellcheck source=/dev/null
[ ! -f "$choice" ] || . "$choice"

with_mpi=0
command -v mpicxx >/dev/null && command -v mpirun >/dev/null && with_mpi=1

# pip's NCCL has no libnccl.so for the linker, so it gets a folder that has; Horovod finds the library itself by rpath.
with_nccl=0
if [ "${HOROVOD_GPU_OPERATIONS:-}" = NCCL ]; then
  with_nccl=1
  site_packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  if [ -z "${HOROVOD_NCCL_HOME:-}" ] && [ -f "$site_packages/nvidia/nccl/include/nccl.h" ]; then
    export HOROVOD_NCCL_HOME=$root/.horovod/nccl HOROVOD_NCCL_LINK=shared
    mkdir -p "$HOROVOD_NCCL_HOME/lib"
    ln -sfn "$site_packages/nvidia/nccl/include" "$HOROVOD_NCCL_HOME/include"
    ln -sf "$site_packages/nvidia/nccl/lib/libnccl.so.2" "$HOROVOD_NCCL_HOME/lib/libnccl.so"
  fi
fi

# A wheel is made for one Python, one TensorFlow and one way to build it.
key=$("$python" -c "
import hashlib, os, sys
from importlib.metadata import version
environment = sorted(f'{k}={v}' for k, v in os.environ.items() if k.startswith('HOROVOD_'))
script = open(sys.argv[1], 'rb').read()
print(hashlib.sha256(repr((sys.version_info[:2], version('tensorflow'), environment, script, sys.argv[2])).encode()).hexdigest()[:16])
" "${BASH_SOURCE[0]}" "$with_mpi")
wheels=$cache/$version-$key

# Nothing to do if this wheel is installed.
"$python" - "$key" <<'END' 2>/dev/null && exit
import sys
from importlib.metadata import distribution
sys.exit(distribution("horovod").locate_file("horovod/build-key").read_text() != sys.argv[1])
END

install_wheel() {
  "$python" -m pip install -q --disable-pip-version-check --force-reinstall --no-deps "$wheels"/horovod-*.whl
  # Packages that Horovod's launcher needs; the others are installed with TensorFlow.
  "$python" -m pip install -q --disable-pip-version-check cloudpickle psutil pyyaml packaging
  "$python" - "$key" <<'END'
import sys
from importlib.metadata import distribution
distribution("horovod").locate_file("horovod/build-key").write_text(sys.argv[1])
END
  say "installed from $wheels"
}

# Horovod's CMake files need a CMake before version 4.
find_cmake() {
  local found
  for found in "$(command -v cmake || true)" "$root/.horovod/cmake/bin/cmake"; do
    [ -n "$found" ] && "$found" --version 2>/dev/null | grep -q 'version 3\.' && { echo "$found"; return; }
  done
  "$python" -m venv --clear "$root/.horovod/cmake"
  "$root/.horovod/cmake/bin/python" -m pip install -q --disable-pip-version-check 'cmake>=3.13,<4'
  echo "$root/.horovod/cmake/bin/cmake"
}

if ! ls "$wheels"/horovod-*.whl >/dev/null 2>&1; then
  command -v g++ >/dev/null || fail "g++ is missing: install it (Debian: apt-get install g++), then try again"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cmake=$(find_cmake)
  say "building $version for TensorFlow $("$python" -c 'from importlib.metadata import version; print(version("tensorflow"))'), MPI: $with_mpi, NCCL: $with_nccl"
  "$python" -m pip download -q --disable-pip-version-check --no-deps --no-build-isolation --no-binary horovod \
    --dest "$work" "horovod==$version"
  tar -xzf "$work/horovod-$version.tar.gz" -C "$work"
  # This source needs headers of XLA that TensorFlow's wheel does not have.
  sed -i '/xla_mpi_ops\.cc/d' "$work/horovod-$version/horovod/tensorflow/CMakeLists.txt"
  # Horovod declares this function of TensorFlow's and calls it, but TensorFlow 2.21 does not export it any more.
  cat >>"$work/horovod-$version/horovod/tensorflow/mpi_ops.cc" <<'END'

#if HAVE_GPU
namespace stream_executor::gpu {
GpuStreamHandle AsGpuStreamValue(Stream* stream) {
  return static_cast<GpuStreamHandle>(stream->platform_specific_handle().stream);
}
}  // namespace stream_executor::gpu
#endif
END
  # Horovod does not set the network interface for the exchange among all processes: Gloo would bind to the address of
  # the host's name, which on Debian is 127.0.1.1.
  sed -i '/registered_ranks) {/,$ s/device_attr.iface = gloo_iface_;/device_attr.iface = global_context.gloo_iface_;/' \
    "$work/horovod-$version/horovod/common/gloo/gloo_context.cc"
  # TensorFlow exports stubs of another version of the CUDA runtime: ours is linked before them, and is not exported.
  # shellcheck disable=SC2016  # the variables are CMake's
  sed -i 's|^target_link_libraries(${TF_TARGET_LIB} |&${CUDA_RUNTIME} |; /^set_output_dir()/i if(HAVE_CUDA)\
    set(CUDA_RUNTIME -Wl,--whole-archive -l:libcudart_static.a -Wl,--no-whole-archive -Wl,--exclude-libs,libcudart_static.a)\
endif()' "$work/horovod-$version/horovod/tensorflow/CMakeLists.txt"
  mkdir -p "$wheels"
  (
    cd "$work/horovod-$version"
    export HOROVOD_CMAKE=$cmake MAKEFLAGS=-j$jobs
    export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1
    if [ "$with_mpi" = 1 ]; then export HOROVOD_WITH_MPI=1; else export HOROVOD_WITHOUT_MPI=1; fi
    # shellcheck disable=SC2016  # $ORIGIN is for the dynamic linker
    if [ "$with_nccl" = 1 ]; then export LDFLAGS='-Wl,-rpath,$ORIGIN/../../nvidia/nccl/lib'; fi
    PATH="$(dirname "$python"):$PATH" "$python" -m pip wheel -q --disable-pip-version-check --no-deps \
      --no-build-isolation --wheel-dir "$work/done" . >"$work/log" 2>&1 ||
      { tail -n 40 "$work/log" >&2; fail "the build failed; the last lines of its output are above"; }
  )
  mv "$work/done"/horovod-*.whl "$wheels"/
fi
install_wheel
