#!/usr/bin/env bash
# Builds a wheel of Horovod for the TensorFlow of an environment, keeps it in .horovod/wheels/ and installs it.
# `make horovod` calls it for .venv. The first call takes minutes (3.5 on two cores), a call with a wheel in the cache
# seconds, and a call with that wheel installed does nothing.
#
# Environment: PYTHON  the interpreter of the environment, default .venv/bin/python
#              CACHE   where wheels are kept, default .horovod/wheels of this repository
#              JOBS    number of compiler processes, default 2
#              HOROVOD_GPU_OPERATIONS=NCCL, and other variables that Horovod's build reads
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

with_mpi=0
command -v mpicxx >/dev/null && command -v mpirun >/dev/null && with_mpi=1

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
  # What its launcher needs; its other dependencies come with TensorFlow.
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
  say "building $version for TensorFlow $("$python" -c 'from importlib.metadata import version; print(version("tensorflow"))'), MPI: $with_mpi"
  "$python" -m pip download -q --disable-pip-version-check --no-deps --no-build-isolation --no-binary horovod \
    --dest "$work" "horovod==$version"
  tar -xzf "$work/horovod-$version.tar.gz" -C "$work"
  # This source needs headers of XLA that TensorFlow's wheel does not have.
  sed -i '/xla_mpi_ops\.cc/d' "$work/horovod-$version/horovod/tensorflow/CMakeLists.txt"
  mkdir -p "$wheels"
  (
    cd "$work/horovod-$version"
    export HOROVOD_CMAKE=$cmake MAKEFLAGS=-j$jobs
    export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1
    if [ "$with_mpi" = 1 ]; then export HOROVOD_WITH_MPI=1; else export HOROVOD_WITHOUT_MPI=1; fi
    PATH="$(dirname "$python"):$PATH" "$python" -m pip wheel -q --disable-pip-version-check --no-deps \
      --no-build-isolation --wheel-dir "$work/done" . >"$work/log" 2>&1 ||
      { tail -n 40 "$work/log" >&2; fail "the build failed; the last lines of its output are above"; }
  )
  mv "$work/done"/horovod-*.whl "$wheels"/
fi
install_wheel
