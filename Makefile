# Two commands do everything: `make demo` shows perslm at work, `make test` checks it.
# Set PYTHON to choose an interpreter (3.11 or newer), VENV to put the environment elsewhere.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
CODE := perslm builders service tests fixtures

.PHONY: demo test lint bench clean help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo ## build models from fixtures/, serve them, compare beam searches
	$(RUN)/perslm demo

test: $(VENV)/.test lint ## everything the project checks
	$(RUN)/python -m pytest

lint: $(VENV)/.test ## format, lint and types only
	$(RUN)/ruff format --check $(CODE)
	$(RUN)/ruff check $(CODE)
	$(RUN)/mypy

bench: $(VENV)/.test ## quality of cleaning and speed, beside other libraries
	$(RUN)/python -m tests.benchmarks.clean
	$(RUN)/python -m tests.benchmarks.build
	$(RUN)/python -m tests.benchmarks.serving
	$(RUN)/python -m tests.benchmarks.weight

clean: ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "perslm needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -e '.[service,builders]'
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -e '.[service,builders,interop,dev]'
	touch $@ $(VENV)/.demo
