#!/usr/bin/env bash
# Sets up the workspace: Poetry in .poetry/, the locked dependencies and the five packages (editable) in .venv/.
# Most `make` targets call it. If nothing has changed since the last call, it only compares two checksums.
# After `make gpu` (.venv/gpu.env), it installs the CUDA libraries and builds mrcnn-ops with CUDA kernels.
#
# Environment: PYTHON, the interpreter to build on (default python3; 3.10 to 3.13).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
poetry_version=2.5.1
mirror_plugin_version=0.6.5

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
# Without its pyvenv.cfg (half deleted), its Python would be the system's, which is not to be changed.
is_venv() { "$1/bin/python" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null; }
is_stamped() { [ "$(cat ".venv/$1.stamp" 2>/dev/null)" = "$2" ]; }

# Installs the system packages that are missing (Debian names). CMake and Ninja are installed into .venv.
install_system_packages() {
  local missing=()
  command -v "$python" >/dev/null || missing+=(python3)
  command -v g++ >/dev/null || missing+=(g++)
  # On Debian, `venv` has no `ensurepip` before python3-venv is installed.
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null ||
    fail "missing system packages: ${missing[*]} (Debian names). There is no apt-get here: install them and try again"
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  say "installing system packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

check_python() {
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' ||
    fail "$("$python" --version) is not supported: set PYTHON to a Python from 3.10 to 3.13, such as PYTHON=python3.12"
}

# make_venv DIR: creates the virtual environment unless DIR has a working one of the same Python.
make_venv() {
  is_venv "$1" && "$1/bin/python" -c 'import pip' 2>/dev/null && [ "$("$1/bin/python" -V)" = "$("$python" -V)" ] && return
  say "creating $1"
  local choice
  choice=$(cat "$1/gpu.env" 2>/dev/null || true)
  rm -f "$1"/*.stamp
  "$python" -m venv --clear "$1"
  [ -z "$choice" ] || printf '%s\n' "$choice" >"$1/gpu.env"
}

install_poetry() {
  make_venv .poetry
  .poetry/bin/python -c "
import sys
from importlib.metadata import version
sys.exit((version('poetry'), version('poetry-plugin-pypi-mirror')) != ('$poetry_version', '$mirror_plugin_version'))
" 2>/dev/null && return
  say "installing Poetry $poetry_version"
  .poetry/bin/python -m pip install -qq --disable-pip-version-check \
    "poetry==$poetry_version" "poetry-plugin-pypi-mirror==$mirror_plugin_version"
}

# Poetry uses the JSON API of the index, which few mirrors have. The plugin makes it use the simple index that pip is
# configured for (PIP_INDEX_URL, pip.conf, or pip's default), so no address is written anywhere. Poetry also gets pip's
# certificates, if pip is configured with any.
run_poetry() {
  local index certificates
  index=$(pip_option index_url)
  certificates=$(pip_option cert)
  env -u VIRTUAL_ENV -u CONDA_PREFIX \
    POETRY_PYPI_MIRROR_URL="$index" POETRY_VIRTUALENVS_IN_PROJECT=true \
    PYTHON_KEYRING_BACKEND=keyring.backends.null.Keyring \
    ${certificates:+REQUESTS_CA_BUNDLE="${REQUESTS_CA_BUNDLE:-$certificates}"} \
    .poetry/bin/python -m poetry --no-interaction --no-ansi "$@"
}

# pip_option NAME: prints the value that pip uses, from its files, its environment or its defaults; may be empty.
pip_option() {
  .poetry/bin/python -c "
from pip._internal.commands import create_command
print(create_command('download').parse_args([])[0].$1 or '')"
}

install_locked_dependencies() {
  install_poetry
  say "installing the locked dependencies (TensorFlow alone is 600 MB)"
  # --compile: without it and with PYTHONDONTWRITEBYTECODE, every import would compile TensorFlow's Python files again.
  run_poetry install --no-directory --compile ${for_gpus:+--with gpu}
}

# Without build isolation, mrcnn-ops is compiled against the TensorFlow in .venv.
install_packages() {
  say "building mrcnn-ops, installing the five packages"
  # Given each time: CMake keeps what it was once told.
  .venv/bin/python -m pip install -qq --disable-pip-version-check --no-index --no-deps --no-build-isolation \
    "--config-settings=cmake.define.MRCNN_OPS_CUDA=${for_gpus:-AUTO}" \
    "--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=${ARCHITECTURES:-OFF}" \
    -e packages/mrcnn-ops -e packages/mrcnn-data -e packages/mrcnn-model -e packages/mrcnn-eval -e packages/mrcnn-train
}

install_system_packages
check_python
for_gpus=
if [ -f .venv/gpu.env ]; then
  for_gpus=ON
  # shellcheck source=/dev/null
  . .venv/gpu.env
  [ -x "$CUDACXX" ] || fail "$CUDACXX does not exist any more: run make gpu again, or delete .venv/gpu.env to build for CPUs"
fi
if [ "${1:-}" = lock ]; then
  make_venv .venv  # otherwise Poetry makes one with another Python
  install_poetry
  run_poetry lock
  exit
fi

dependencies_key=$({ "$python" -V; echo "$for_gpus"; cat poetry.lock pyproject.toml infra/setup.sh; } | sha256sum | cut -d' ' -f1)
# Editable packages are installed again when their metadata or C++ has changed, or the working copy has moved.
packages_key=$(
  { printf '%s\n' "$dependencies_key" "$PWD" "${ARCHITECTURES:-}" "${CUDACXX:-}"
    sha256sum packages/*/pyproject.toml
    find packages/mrcnn-ops -path '*/build' -prune -o -type f \
      \( -path '*/csrc/*' -o -name 'CMakeLists.txt' -o -name '*.cmake' -o -name '*.in' \) -print0 |
      sort -z | xargs -0 sha256sum
  } | sha256sum | cut -d' ' -f1
)
if is_venv .venv && is_stamped dependencies "$dependencies_key" && is_stamped packages "$packages_key"; then
  exit
fi
make_venv .venv
if ! is_stamped dependencies "$dependencies_key"; then
  install_locked_dependencies
  echo "$dependencies_key" >.venv/dependencies.stamp
fi
install_packages
echo "$packages_key" >.venv/packages.stamp
say "ready"
