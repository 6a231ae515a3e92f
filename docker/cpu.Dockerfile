# mrcnn on CPUs: one process, or several by Open MPI or Gloo. From the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t mrcnn:cpu .
#   docker run --rm -v "$PWD/outputs:/home/mrcnn/outputs" mrcnn:cpu python -m mrcnn_train +experiment=demo
# The folder `outputs` must be writable for user 1000.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# The distribution's Python and compilers move with its security updates; Python packages are those of poetry.lock.
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates cmake g++ libopenmpi-dev make ninja-build openmpi-bin python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/mrcnn/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY poetry.lock ./
COPY infra/locked.py infra/
RUN python3 -m venv /opt/mrcnn \
 && python infra/locked.py --group s3 >/tmp/main.txt \
 && python infra/locked.py --group dev --only pathspec poetry-core scikit-build-core >/tmp/build.txt \
 && pip install -q --no-deps --require-hashes -r /tmp/main.txt \
 && pip install -q --no-deps --require-hashes --target /opt/build-tools -r /tmp/build.txt
COPY infra/horovod/build.sh infra/horovod/
RUN PYTHON=/opt/mrcnn/bin/python infra/horovod/build.sh
COPY packages packages
RUN PYTHONPATH=/opt/build-tools pip install -q --no-index --no-deps --no-build-isolation ./packages/*

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates openmpi-bin openssh-client openssh-server python3 \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
 && { userdel -r ubuntu 2>/dev/null || true; } \
 && useradd --uid 1000 --create-home --shell /bin/bash mrcnn
COPY --from=build /opt/mrcnn /opt/mrcnn
# The staging job (infra/eks/stage.yaml) runs infra.data.stage from there.
COPY infra /opt/mrcnn/infra
ENV PATH=/opt/mrcnn/bin:$PATH
USER 1000:1000
WORKDIR /home/mrcnn
CMD ["python", "-m", "mrcnn_train", "--help"]
