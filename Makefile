# Each target is a line or two that a person can also type.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help install run kafka services test lint bench faults soak clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## create .venv with the application and its test tools

COMPILED := $(wildcard tables/*.pxd tables/*.pyx agents/operator/*.pyx app/transport/kafka/*.pyx)

$(VENV)/.installed: setup.cfg setup.py pyproject.toml $(COMPILED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Famulus needs Python 3.11 or newer: run make with PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

run: install ## start one worker on the embedded log with simulated traffic; prints the console's address
	@$(BIN)/famulus demo

kafka: ## start Apache Kafka on this machine (Java 17; KAFKA_HOME or Maven); prints its address
	@$(PYTHON) -m tests.support.kafka

services: install ## start PostgreSQL and Redis with example profiles; prints their addresses
	@$(BIN)/python -m tests.support.services

test: install ## run the whole test suite
	@tests/browser/install.sh
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: install ## ruff, mypy --strict and the import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: install ## measure: CPU per record, side by side with a hand-written loop and plain Faust
	$(BIN)/python -m tests.bench

faults: install ## the long kill -9 campaign against an independent oracle
	$(BIN)/python -m tests.fault

soak: install ## an hour of nothing and an hour of traffic on both logs: nothing may grow
	$(BIN)/python -m tests.soak

clean: ## remove .venv and caches (var/ with your data stays)
	rm -rf $(VENV) build *.egg-info $(COMPILED:.pyx=.c) $(COMPILED:.pyx=.*.so) .mypy_cache .ruff_cache .pytest_cache .hypothesis
