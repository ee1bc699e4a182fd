# Two commands matter: `make demo` and `make test`. Both make their own environment in .venv on first use.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SHARED := -n auto --maxprocesses 4 --dist loadgroup --no-loadscope-reorder  # a process a core; tests/conftest.py groups and orders
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all lint types

demo: $(INSTALLED)
	$(BIN)/mdae demo demo

test: lint types
	$(BIN)/python -m pytest $(SHARED) -m "not slow and not gpu"

test-all: lint types
	$(BIN)/python -m pytest $(SHARED)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@
