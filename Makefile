# Thin: each line is a command a person could type. `make demo` and `make test` set up .venv themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
SOURCES := $(shell find daremerge_core plugins -name '*.py' -o -name 'pyproject.toml')

.PHONY: demo test lint bench clean

demo: $(VENV)/.installed
	$(BIN)/daremerge demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=adapters/comfyui $(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/run.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python requirements.txt constraints.txt $(SOURCES)
	$(PIP) -r requirements.txt
	touch $@
	rm -f $(VENV)/.installed-dev

$(VENV)/.installed-dev: $(BIN)/python requirements-dev.txt requirements-oracles.txt constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PIP) -r requirements-dev.txt
	$(PIP) --no-deps -r requirements-oracles.txt
	touch $@

clean:
	rm -rf $(VENV) dist build demo
