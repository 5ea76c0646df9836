PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check setup clean

demo: setup
	$(BIN)/sensorium demo

# Two tests at a time, each of one thread: more would fight for the cores that ranks and workers of tests need.
test: setup check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-all: test
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/installed

# torch comes first and pinned: a looser range, or one asked for by another package, may take a build with CUDA.
# torchaudio's compiled parts are linked to CUDA and cannot load beside a CPU build; without them it runs in Python.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sensorium needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	$(BIN)/python -c 'import importlib.util, pathlib, torch; torch.version.cuda or [f.unlink() for f in (pathlib.Path(importlib.util.find_spec("torchaudio").origin).parent / "lib").glob("*.so")]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
