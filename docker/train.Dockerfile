# mrcnn on NVIDIA GPUs, one or many machines. From the root of the repository:
#   docker build -f docker/train.Dockerfile -t mrcnn:gpu .
#   docker build -f docker/train.Dockerfile -t mrcnn:gpu-efa --build-arg EFA_VERSION=1.51.0 .       (AWS, several machines)
# The build needs nvcc, so its base is CUDA's development image. To run, the CUDA libraries that TensorFlow wants come
# by pip (extra `gpu`), so the second base can be a plain one; both need the same distribution.
ARG BASE=nvidia/cuda:12.9.1-devel-ubuntu24.04
ARG RUN_BASE=ubuntu:24.04

FROM ${BASE} AS build
# Empty: the distribution's Open MPI and no EFA. A version of AWS's installer: its Open MPI, EFA and NCCL's plugin.
ARG EFA_VERSION=
# Empty: compute capabilities 7.0 (with CUDA 12), 7.5, 8.0, 9.0, 10.0 and 12.0.
ARG CUDA_ARCHITECTURES=
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates cmake curl g++ libopenmpi-dev make ninja-build openmpi-bin python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY docker/efa.sh /tmp/
RUN /tmp/efa.sh "${EFA_VERSION}"
ENV PATH=/opt/mrcnn/bin:/opt/amazon/openmpi/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY poetry.lock ./
COPY infra/locked.py infra/
RUN python3 -m venv /opt/mrcnn \
 && python infra/locked.py --group gpu --group s3 >/tmp/main.txt \
 && python infra/locked.py --group dev --only pathspec poetry-core scikit-build-core >/tmp/build.txt \
 && pip install -q --no-deps --require-hashes -r /tmp/main.txt \
 && pip install -q --no-deps --require-hashes --target /opt/build-tools -r /tmp/build.txt
COPY infra/horovod/build.sh infra/horovod/
# Its own kernels are few: code for 7.5, 8.0 and 9.0, which the driver translates for what comes after.
RUN PYTHON=/opt/mrcnn/bin/python HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=/usr/local/cuda \
      HOROVOD_BUILD_CUDA_CC_LIST=75,80,90 CUDAARCHS=75 infra/horovod/build.sh
COPY packages packages
# hadolint ignore=DL3013
RUN PYTHONPATH=/opt/build-tools CUDACXX=/usr/local/cuda/bin/nvcc pip install -q \
      --no-index --no-deps --no-build-isolation --config-settings=cmake.define.MRCNN_OPS_CUDA=ON \
      ${CUDA_ARCHITECTURES:+"--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=$CUDA_ARCHITECTURES"} \
      ./packages/mrcnn-ops \
 && PYTHONPATH=/opt/build-tools pip install -q --no-index --no-deps --no-build-isolation \
      ./packages/mrcnn-data ./packages/mrcnn-model ./packages/mrcnn-eval ./packages/mrcnn-train

FROM ${RUN_BASE}
ARG EFA_VERSION=
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates curl openmpi-bin openssh-client openssh-server python3 \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
 && { userdel -r ubuntu 2>/dev/null || true; } \
 && useradd --uid 1000 --create-home --shell /bin/bash mrcnn
COPY docker/efa.sh /tmp/
RUN /tmp/efa.sh "${EFA_VERSION}"
COPY --from=build /opt/mrcnn /opt/mrcnn
# The staging job (infra/eks/stage.yaml) runs infra.data.stage from there.
COPY infra /opt/mrcnn/infra
# NVIDIA_*: what NVIDIA's container runtime shows the container. LD_LIBRARY_PATH: where NCCL looks for the EFA plugin.
ENV PATH=/opt/mrcnn/bin:/opt/amazon/openmpi/bin:$PATH \
    LD_LIBRARY_PATH=/opt/amazon/ofi-nccl/lib:/opt/amazon/efa/lib:/opt/amazon/openmpi/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /home/mrcnn
CMD ["python", "-m", "mrcnn_train", "--help"]
