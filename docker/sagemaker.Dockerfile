# mrcnn as a SageMaker training image, on AWS's own TensorFlow 2.21 image (CUDA 12.9, Open MPI, NCCL and EFA are in it):
#   docker build -f docker/sagemaker.Dockerfile -t mrcnn:sagemaker \
#     --build-arg BASE=ACCOUNT.dkr.ecr.REGION.amazonaws.com/tensorflow-training:2.21.0-gpu-py312-cu129-ubuntu22.04-sagemaker .
# AWS lists account and tags under "Available Deep Learning Containers images". infra/README.md tells how to push it.
ARG BASE

FROM ${BASE}
ARG CUDA_ARCHITECTURES=
WORKDIR /opt/mrcnn
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY poetry.lock ./
COPY infra infra
# TensorFlow stays the one of the image; the others get the versions of poetry.lock.
RUN python infra/locked.py --without tensorflow >/tmp/main.txt \
 && python infra/locked.py --group dev --only pathspec poetry-core scikit-build-core ninja >/tmp/build.txt \
 && pip install -q --no-deps --require-hashes -r /tmp/main.txt \
 && pip install -q --no-deps --require-hashes --target /opt/build-tools -r /tmp/build.txt \
 && PYTHON=$(command -v python) HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_CUDA_HOME=/usr/local/cuda \
      HOROVOD_BUILD_CUDA_CC_LIST=75,80,90 CUDAARCHS=75 infra/horovod/build.sh \
 && rm -rf .horovod /tmp/main.txt /tmp/build.txt
COPY packages /tmp/packages
# hadolint ignore=DL3013
RUN PYTHONPATH=/opt/build-tools PATH=/opt/build-tools/bin:$PATH pip install -q \
      --no-index --no-deps --no-build-isolation --config-settings=cmake.define.MRCNN_OPS_CUDA=ON \
      ${CUDA_ARCHITECTURES:+"--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=$CUDA_ARCHITECTURES"} \
      /tmp/packages/mrcnn-ops \
 && PYTHONPATH=/opt/build-tools pip install -q --no-index --no-deps --no-build-isolation \
      /tmp/packages/mrcnn-data /tmp/packages/mrcnn-model /tmp/packages/mrcnn-eval /tmp/packages/mrcnn-train \
 && rm -rf /tmp/packages /opt/build-tools
# `infra` is imported from here.
ENV PYTHONPATH=/opt/mrcnn
ENTRYPOINT ["python", "-m", "infra.sagemaker.entry"]
