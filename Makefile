# Every target does its own set-up: a fresh clone needs only make, git and Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/.demo ## Annotate sample photos with the bundled model and say where the masks are
	$(BIN)/python -m pipelines.auto_annotate

test: $(VENV)/.test ## Run the test suite (eight to ten CPU minutes)
	$(BIN)/python -m pytest

test-slow: $(VENV)/.test ## Run the tests that take minutes, or seconds for a fact that few changes touch
	$(BIN)/python -m pytest -m slow --timeout 3600

corpus: $(VENV)/.test ## Decode 2,000 files of every kind, whole and damaged, beside Pillow and tifffile (half a minute)
	$(BIN)/python -m pytest -m slow tests/images/test_large_corpus.py

torture: $(VENV)/.test ## Fail, kill and corrupt runs thousands of times, as docs/reliability.md reports (an hour)
	$(BIN)/python -m tests.faults syscalls calls kill powerloss zombies flips selftest

torture-workers: $(VENV)/.test ## Kill workers, nodes and runs, and look for leaks (half an hour; Linux)
	$(BIN)/python -m tests.faults.workers all

torture-signals: $(VENV)/.test ## Interrupt 200 runs at every phase, with Ray and without (half an hour)
	$(BIN)/python -m tests.faults.workers siginline sigray

pictures: $(VENV)/.test ## Make the README's pictures anew (Chromium)
	$(BIN)/python -m pipelines.auto_annotate output=outputs/pictures executor=inline
	$(BIN)/python -m tests.web.pictures outputs/pictures docs

check: $(VENV)/.dev ## Format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environment and caches, but no dataset
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# One stamp per extra: make reinstalls when the pins or the project's metadata change.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the $* environment into $(VENV) (once; takes a few minutes)"
	$(PIP) --editable '.[$*]'
	@touch $@

.PHONY: help demo test test-slow corpus torture torture-workers torture-signals pictures check format clean
