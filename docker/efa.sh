#!/usr/bin/env bash
# Installs AWS's EFA libraries, its Open MPI and NCCL's plugin (aws-ofi-nccl) into an image; the kernel's module is the
# host's. Argument: the installer's version, "" for none.
set -euo pipefail
version=$1
[ -n "$version" ] || { echo "efa.sh: no EFA_VERSION: the image is for one machine, or for TCP between machines"; exit 0; }

options=(-y --skip-kmod --skip-limit-conf --no-verify)
# NVIDIA's images set this; the installer would take them for images that have an MPI already.
[ -z "${NVIDIA_REQUIRE_CUDA:-}${NVIDIA_PRODUCT_NAME:-}" ] || options+=(--disable-ngc)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl -fsSL "https://efa-installer.amazonaws.com/aws-efa-installer-$version.tar.gz" | tar -xz -C "$work"
apt-get update
(cd "$work/aws-efa-installer" && ./efa_installer.sh "${options[@]}")
rm -rf /var/lib/apt/lists/*
