# Two commands for a newcomer: `make demo` and `make test`. `make help` lists all.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

$(VENV)/.demo: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing what the demo needs (torch and llama.cpp among it) ..."
	@$(PIP) --editable '.[local,distill]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "Installing what tests and checks need ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.demo ## The whole loop on this machine: run, distil, promote, run again (about 14 minutes; ARGS="--fresh" begins again)
	@$(BIN)/hetero demo $(ARGS)

test: $(VENV)/.dev ## All tests, the real small model included
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
# Two at a time, but for the real model, which takes all cores.
	@$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),\
	  $(BIN)/python -m pytest -m "not model" --numprocesses 2 && $(BIN)/python -m pytest -m model)

check: $(VENV)/.dev ## Format, lint and types, without tests
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev ## Measurements against named peers, after `make demo` (an hour; makes environments under .bench)
	@$(BIN)/python tests/bench/call_cost/run.py
	@$(BIN)/python tests/bench/call_cost/run.py --crews --calls 30
	@$(BIN)/python tests/bench/call_cost/concurrency.py
	@$(BIN)/python -m tests.bench.crew_size --code
	@$(BIN)/python tests/bench/vault_write.py
	@$(BIN)/python -m tests.bench.parity
	@$(BIN)/python -m tests.bench.vllm_adapters
	@$(BIN)/python -m examples.loan_clerk.study

docs: $(VENV)/.dev ## Run the snippets of README and docs, and write the outputs they show
	@$(BIN)/python -m pytest tests/test_docs.py --update-examples

.PHONY: help demo test check bench docs
