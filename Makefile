# `make demo` and `make test` do everything on a fresh machine, set-up included.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo compare test slow reliability check scan audit results format setup clean

# In a folder of its own: results/ holds the project's records, this cell among them, and what is done is not run again.
demo: $(READY)
	$(BIN)/python run.py method=mora task=uuid paths.results=results/demo

# FFT, LoRA and MoRA at the higher rank of Table 2, at the protocol's rates, one seed: a picture in six minutes.
compare: $(READY)
	$(BIN)/python run.py method=fft task=uuid paths.results=results/compare
	$(BIN)/python run.py -m method=lora,mora method.rank=64 task=uuid paths.results=results/compare
	$(BIN)/python scripts/make_figures.py --figure 1 --results results/compare

# One process a core; an idle one takes over half of what another has left.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# Some of these need the optional packages; they are not installed otherwise, since importing them slows every run down.
slow: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[experiments,dev,quantized,slurm]'
	$(BIN)/python -m pytest -m slow

# Every test that proves a promise, the slow ones too, and the page that says so: half an hour and more.
reliability: $(READY)
	$(BIN)/python -m pytest -m promise --promises docs/reliability.json
	$(BIN)/python -m tests.promises

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/make_tables.py --check --readme README.md
	$(BIN)/python scripts/make_figures.py --check
	$(BIN)/python scripts/make_report.py --check
	$(MAKE) scan

# All that regenerates from results/runs; `make check` fails where what is committed is something else.
results: $(READY)
	$(BIN)/python scripts/make_tables.py --readme README.md
	$(BIN)/python scripts/make_figures.py
	$(BIN)/python scripts/make_report.py

# Keys in tracked files, by their shapes; without a network, so nothing is tried out. Entropy is left out: sums have it too.
SCAN := --no-verify --disable-plugin HexHighEntropyString --disable-plugin Base64HighEntropyString
scan: $(READY)
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook $(SCAN)

# Known vulnerabilities of the exact versions. Needs the network; in a venv of its own, so that it changes none of ours.
audit:
	test -x .venv/audit/bin/pip-audit || $(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

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
