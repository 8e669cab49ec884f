# `make demo` and `make test` set up .venv by themselves; nothing else is needed on a fresh machine but Python 3.11+.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup demo test check lint bench study faults fuzz fuzz-guided audit clean
help:            ## show these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(READY)  ## make .venv with the tested versions
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Error: Python 3.11 or newer is needed; try make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) with the tested versions (once, some minutes) ..."
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)   ## simulate an archive, screen it, report the prevalence
	$(BIN)/screening demo

# These kill processes at moments that a busy machine would shift, or measure; the others share it.
ALONE := tests/faults/test_faults.py tests/faults/test_interrupt.py tests/benchmarks/test_guard.py
test: $(READY)   ## all tests but the long ones (half an hour on two cores); real recordings are used where ../shared/data or SCREENING_TEST_DATA is there
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25 -m "not long" $(addprefix --ignore=,$(ALONE))
	$(BIN)/python -m pytest -m "not long" $(ALONE)

lint: $(READY)   ## ruff, format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## what CI runs

bench: $(READY)  ## the figures of the README: side by side in one run
	mkdir -p build
	$(BIN)/python -m tests.benchmarks --memory --json build/bench.json
	$(BIN)/python -m tests.benchmarks.chart build/bench.json build/bench.png

ARCHIVE ?= ../ptb-xl
study: $(READY)  ## the tables of the model card and the model that ships, from PTB-XL at ARCHIVE (hours)
	$(BIN)/screening catalog $(ARCHIVE) --out study/catalog --deidentified --labels ptbxl-mi
	$(BIN)/screening study --catalog study/catalog --folds 1,2,3,4,5,6,7,8,9 --out study
	$(BIN)/screening train --catalog study/catalog --config jobs/ptbxl.yaml --comparisons study/tables.md --out study/trained
	$(BIN)/screening audit-explanations --catalog study/catalog --model study/trained --retrain all --out study/audit --bundle study/bundle

faults: $(READY) ## kill runs, workers and nodes at random moments; compare every byte; all long tests (an hour)
	$(BIN)/python -m pytest -m long
	$(BIN)/python -m tests.faults --faults 60

fuzz: $(READY)   ## a million broken inputs into everything that reads foreign bytes (a quarter of an hour)
	$(BIN)/python -m tests.fuzz --inputs 1000000

GUIDED ?= 200000
fuzz-guided: $(READY)  ## the same, led by coverage (atheris, which it installs): GUIDED inputs, half an hour for 200,000
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz --engine atheris --inputs $(GUIDED)

# Not part of `check`: it asks the vulnerability database of PyPI, over the network.
audit: $(READY)  ## known vulnerabilities of every locked version, and a bill of materials in build/sbom.json
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[audit]'
	mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible --of JSON -o build/sbom.json $(BIN)/python
	@echo "Bill of materials: build/sbom.json (CycloneDX)"
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt || { echo "Error: not every version in constraints.txt was found free of known vulnerabilities; where it says that none could be audited, no database was reached."; exit 1; }

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
