# Everything that a person or a machine does here; `make help` lists it.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo check test test-pairs lint docs site bench

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(STAMP) ## make .venv with everything for development

$(STAMP): pyproject.toml .ci/constraints.txt .ci/public.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c .ci/constraints.txt -e '.[models,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/public -r .ci/public.txt
	touch $@

demo: venv ## compile and run small Qwen3 models on this machine, and compare them with eager
	$(BIN)/python -m ascend_passes demo

check: lint ## what every edit is worth: lint, and the tests that need no process of their own
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --no-loadscope-reorder -m "not own_process"

test: venv ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --no-loadscope-reorder --durations=30

test-pairs: venv ## run chosen tests with the other versions that the package takes
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pairs

lint: venv ## ruff, formatting, mypy, and whether the generated pages are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/make.py --check

docs: venv ## write the generated pages: options, operators, accuracy and rules
	$(BIN)/python docs/make.py

site: venv ## build the documentation as a site with search, in build/site
	$(BIN)/mkdocs build --strict

bench: venv ## time the passes
	$(BIN)/python -m ascend_passes bench compile
