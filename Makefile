# make demo       a real vote through Flower's own processes, from a fresh clone
# make test       the gate: format, lint, types, tests
# make test-slow  what takes longer: MNIST, kills, long fuzzing
# make results    every benchmark, then docs/results.md (long; goes on where it was interrupted)
# make page       docs/results.md from the JSON files that are there
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: install demo lint page results test test-slow
.DEFAULT_GOAL := test

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; run: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -qq -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/rtc-flower demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p rtc_flower
	$(BIN)/mypy tests $(wildcard benchmarks/*.py)

test: lint
	$(BIN)/python -m pytest -q -n 2 -m 'not slow'

test-slow: install
	$(BIN)/python -m pytest -q -m slow

# Trained nodes and finished measurements are kept in .cache/ and not made again.
results: install
	$(BIN)/python benchmarks/results.py --run

page: install
	$(BIN)/python benchmarks/results.py
