PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check docs setup dist same-loss clean

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

# The documentation site in site/; warnings, such as a broken link, are errors.
docs: setup
	$(BIN)/python docs/generate.py --check
	$(BIN)/zensical build --strict

# The wheel and the source archive, then the demo from the wheel in an empty environment, which pip fills from the registry.
dist: setup
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/pytest -q tests/packaging/test_dist.py
	$(PYTHON) -m venv dist/venv
	dist/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	dist/venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls dist/*.whl)[molecules,report]"
	cd dist && venv/bin/sensorium demo
	rm -rf dist/venv dist/runs

# Whether this tree computes the same values as another commit: make same-loss BASE=main DATA=folder [SETS="tables birds"]
same-loss: setup
	$(BIN)/python benchmarks/same_loss.py versus $(BASE) --data $(DATA) $(if $(SETS),--sets $(SETS))

setup: $(VENV)/installed

# torch comes first and pinned: a looser range, or one asked for by another package, may take a build with CUDA.
# torchaudio's compiled parts are linked to CUDA and cannot load beside a CPU build; without them it runs in Python.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sensorium needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools wheel
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[all,dev,docs]'
	$(BIN)/python -c 'import importlib.util, pathlib, torch; torch.version.cuda or [f.unlink() for f in (pathlib.Path(importlib.util.find_spec("torchaudio").origin).parent / "lib").glob("*.so")]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist site .cache *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
