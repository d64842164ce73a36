# Two words do everything on a fresh machine: `make run` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ROOMS := conf cluster ledger tables trainers serve flows

.DEFAULT_GOAL := help
.PHONY: help run test chaos lint bench lock clean

help:  ## Show these lines
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/run.done  ## The main job on the demo data: learn, judge, release and answer
	$(BIN)/raycycle run experiment=flights

test: $(VENV)/dev.done  ## All tests (unit, then integration with real Ray, MLflow and Serve)
	$(BIN)/pytest tests/unit tests/integration

chaos: $(VENV)/dev.done  ## kill -9 runs at 40 moments and compare with an undisturbed one (about an hour; RAYCYCLE_KILLS, RAYCYCLE_SEED)
	$(BIN)/python -m pytest tests/chaos

lint: $(VENV)/dev.done  ## ruff, mypy, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.done  ## Measure against plain scikit-learn and write docs/any-table.md
	$(BIN)/python -m bench any_table

lock: $(VENV)/dev.done  ## Renew both lock files from pyproject.toml
	$(BIN)/pip-compile -q --strip-extras --no-emit-find-links --no-emit-index-url --no-header --annotation-style=line -o requirements.lock pyproject.toml
	$(BIN)/pip-compile -q --strip-extras --no-emit-find-links --no-emit-index-url --no-header --annotation-style=line --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	sed -i 's/^torch==\([0-9.]*\)+cpu/torch==\1/' requirements.lock requirements-dev.lock

clean:  ## Remove the environment and caches (not your data in .raycycle)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/run.done: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements.lock
	$(BIN)/pip install -q --no-deps -e .
	touch $@

$(VENV)/dev.done: requirements-dev.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements-dev.lock
	$(BIN)/pip install -q --no-deps -e .
	touch $@ $(VENV)/run.done
