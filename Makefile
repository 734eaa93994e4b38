# SPDX-License-Identifier: Apache-2.0
# Everything runs in a virtual environment that is made on the way. `make demo` and `make test` need Python and a C++
# compiler, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Applies to isolated builds as well, so that what is built with is pinned like what is run with: by the second name since
# pip 25.3. Relative, because pip would take a path with a space in it for two.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A process for every core; one that has nothing left takes over tests of another.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal
INSTALL := $(BIN)/python -m pip install --quiet --progress-bar off
BUILD_FILES := pyproject.toml CMakeLists.txt constraints.txt $(shell find cmake csrc python -type f -not -name '*.so' -not -path '*/__pycache__/*')

.PHONY: demo test test-full lint format bench bench-pytest gpu-check clean

# Train a policy, convert it, compare: everything lands in runs/demo. Interrupted, it goes on where it was.
demo: $(VENV)/.installed
	$(BIN)/snnfast run cartpole --name demo --resume

# The tier that CI runs.
test: $(VENV)/.installed-test
	$(PYTEST) -m "not long"

# With the long ones: training marks, kill loops, more examples of every property.
test-full: $(VENV)/.installed-test
	HYPOTHESIS_PROFILE=full $(PYTEST) --timeout 3600

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.cu')

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.cu')

bench: $(VENV)/.installed
	$(BIN)/snnfast bench network --json benchmarks/results/network.json --plot docs/images/network.png

# The same cases one by one, for `--benchmark-compare` between two versions.
bench-pytest: $(VENV)/.installed-bench
	$(BIN)/python -m pytest benchmarks --benchmark-only

# On a machine with an NVIDIA device; installs and downloads nothing, so PYTHON must have what docs/cuda.md names.
# ARGS: its options, such as --commit where there is no git to ask.
gpu-check:
	$(PYTHON) tests/gpu/check.py $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Without ensurepip (Debian's python3-venv) venv fails when the interpreter is already there: then it goes again, so that
# the next try starts anew.
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python $(BUILD_FILES)
	@echo "Installing snnfast and what it needs into $(VENV) (a few minutes the first time) ..."
	$(INSTALL) ".[plot]"
	@touch $@

$(VENV)/.installed-test: $(BIN)/python $(BUILD_FILES)
	@echo "Installing snnfast and what its tests need into $(VENV) (a few minutes the first time) ..."
	$(INSTALL) ".[test]" --config-settings cmake.define.SNNFAST_WERROR=ON
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(BIN)/python $(BUILD_FILES)
	@echo "Installing snnfast and what its benchmarks need into $(VENV) (a few minutes the first time) ..."
	$(INSTALL) ".[bench]"
	@touch $@ $(VENV)/.installed
