# The verbs of this project. `make demo` and `make test` work on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: all demo test lint format bench lock clean
.DEFAULT_GOAL := test

all: test

$(VENV)/.dev: pyproject.toml requirements/dev.txt
	@tools/venv $(PYTHON) $(VENV) dev
	@touch $@ $(VENV)/.demo

$(VENV)/.demo: pyproject.toml requirements/demo.txt
	@tools/venv $(PYTHON) $(VENV) demo
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/python -m slm_authz.local.demo

test: $(VENV)/.dev lint
	@$(BIN)/pytest

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	@$(BIN)/python -m bench

# Renew the locked versions and their hashes; needs uv.
lock:
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --custom-compile-command "make lock" \
	  --extra demo -o requirements/demo.txt pyproject.toml
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --custom-compile-command "make lock" \
	  --extra dev --extra demo -o requirements/dev.txt pyproject.toml

clean:
	rm -rf $(VENV) .demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
