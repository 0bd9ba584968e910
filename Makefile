# `make demo` and `make test` do everything on a fresh machine, set-up included.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test slow check format setup clean

# In a folder of its own: results/ holds the project's records, this cell among them, and what is done is not run again.
demo: $(READY)
	$(BIN)/python run.py method=mora task=uuid paths.results=results/demo

test: $(READY)
	$(BIN)/python -m pytest

# Some of these need the optional packages; they are not installed otherwise, since importing them slows every run down.
slow: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[experiments,dev,quantized,slurm]'
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(READY)

# torch comes first and by its exact version, so that no other package pulls in a CUDA build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[experiments,dev]'
	touch $(READY)

clean:
	rm -rf .venv build dist *.egg-info
