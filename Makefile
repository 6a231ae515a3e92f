# Most targets set the workspace up first (infra/setup.sh), which takes a moment if nothing has changed.
PYTHON ?= python3
PY := .venv/bin/python
# PYTHON may be in the environment too, where these scripts would take it for the environment to build for.
BUILD_HOROVOD := PYTHON=$(CURDIR)/$(PY) infra/horovod/build.sh
PACKAGES := $(wildcard packages/*)
CXX_SOURCES := $(shell find packages/*/csrc bench -name '*.cc' -o -name '*.cu' -o -name '*.h')

.PHONY: help setup horovod lock demo test test-slow drill fuzz test-kernels test-infra test-docker lint format bench gpu gpu-check wheels clean

help: ## List the targets
	@sed -nE 's/^([a-z%-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Create .venv with the locked dependencies and the five packages
	@PYTHON=$(PYTHON) infra/setup.sh

horovod: setup ## Build Horovod for the TensorFlow of .venv and install it there (minutes the first time)
	@$(BUILD_HOROVOD)

gpu: ## Make .venv a GPU environment: CUDA libraries, ops and Horovod for GPUs; tells what is missing
	@PYTHON=$(PYTHON) infra/gpu.sh

lock: ## Renew poetry.lock from the pyproject files
	@PYTHON=$(PYTHON) infra/setup.sh lock

demo: setup ## Train on generated shapes and print COCO AP (minutes, CPU)
	$(PY) -m mrcnn_train +experiment=demo $(if $(wildcard .venv/gpu.env),,device=cpu)

test: setup ## The fast tests of every package and of the workspace, two packages at a time
	$(PY) tests/run_suites.py --jobs 2 -m "not slow"

test-slow: setup .bench/ready ## Slow tests, hours: training to an AP, several processes, faults, fuzzing, torchvision, C++, packages alone
	@$(BUILD_HOROVOD) || echo "Horovod could not be built: the tests of jobs of several processes are skipped"
	MRCNN_TORCH_PYTHON=$(CURDIR)/.bench/bin/python $(PY) tests/run_suites.py -m slow

drill: setup ## Faults staged on tiny runs (signals, full disk, lost ranks): a table of what was survived, seven minutes
	@$(BUILD_HOROVOD) || echo "Horovod could not be built: the faults of several processes are not tried"
	$(PY) packages/mrcnn-train/tests/drill.py

FUZZ_MINUTES ?= 20
fuzz: setup ## Random files for every parser, FUZZ_MINUTES=20 for each; a file that breaks one is kept in tests/fuzz/found
	$(PY) tests/fuzz/run.py --minutes $(FUZZ_MINUTES)

test-kernels: setup ## C++ tests of the op kernels, without TensorFlow: plain, and with sanitizers
	$(PY) -m pytest packages/mrcnn-ops/tests/test_kernels.py

test-infra: setup .infra/ready ## Tests of infra/: chart, SageMaker, S3, and jobs on hosts and on Slurm made here (root, half an hour)
	@$(BUILD_HOROVOD) || echo "Horovod could not be built: the tests of jobs are skipped"
	.infra/bin/python -m pytest infra/tests -m "not slow"
	$(PY) -m pytest infra/tests -m slow --ignore infra/tests/test_docker.py

test-docker: setup .infra/ready ## Build the images with buildah, train in them (root, Debian, an hour)
	$(PY) -m pytest infra/tests/test_docker.py -s

lint: setup ## Check the code: ruff, mypy, clang-format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(PY) -m mypy $(addsuffix /src,$(PACKAGES)) tests bench infra/*.py infra/data infra/ec2 infra/sagemaker

format: setup ## Rewrite what ruff and clang-format can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	.venv/bin/clang-format -i $(CXX_SOURCES)

# Runs all scripts, also after one has failed or has missed its target; then fails if any did.
RUN_EACH = status=0; for script in $(1); do echo "== $$script"; $(PY) $$script || status=1; done; exit $$status

bench: setup .bench/ready ## Every benchmark in bench/ but auto.py (hours), and their page in docs/RESULTS.md
	@$(call RUN_EACH,$(filter-out bench/page.py bench/auto.py,$(wildcard bench/*.py)) bench/page.py)

bench-data: setup .bench/ready ## The benchmarks of reading and loading data sets: bench/data_*.py
	@$(call RUN_EACH,bench/data_*.py)

bench-%: setup ## One benchmark: bench-NAME runs bench/NAME.py
	$(PY) bench/$*.py

bench-ops bench-model: .bench/ready

# An environment with torch, for comparisons: torch and TensorFlow cannot be loaded into one process.
.bench/ready: pyproject.toml
	$(PYTHON) -m venv --clear .bench
	.bench/bin/python -m pip install -qq --disable-pip-version-check --upgrade "pip>=25.1"
	.bench/bin/python -m pip install -qq --disable-pip-version-check --group bench
	touch $@

# What only the tests of infra/ need: moto, SageMaker's SDK, helm, linters.
.infra/ready: infra/tests/requirements.txt infra/tests/kubernetes_tools.py
	$(PYTHON) -m venv --clear .infra
	.infra/bin/python -m pip install -qq --disable-pip-version-check -r infra/tests/requirements.txt
	.infra/bin/python infra/tests/kubernetes_tools.py .infra/bin
	touch $@

gpu-check: ## Build the CUDA kernels with nvcc, compare and time them on this machine's GPU
	$(PYTHON) bench/gpu_check/gpu_check.py

wheels: setup ## Build the five wheels into dist/
	rm -rf dist
	$(PY) -m pip wheel -qq --no-index --no-deps --no-build-isolation --wheel-dir dist $(addprefix ./,$(PACKAGES))
	@ls -l dist

clean: ## Remove build results and caches; keeps .venv, .bench, .infra, .poetry and outputs
	rm -rf dist packages/*/build packages/*/dist .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -path ./.bench -prune -o -path ./.infra -prune -o -path ./.poetry -prune -o \( -name __pycache__ -o -name .pytest_cache \) -print0 | xargs -0 rm -rf
