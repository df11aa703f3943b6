# Accession's commands. `make demo` and `make test` need nothing before them.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
LOCK := uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header
JOBS ?= auto
T ?= tests
RUNS ?= 100
N ?= 50000

.DEFAULT_GOAL := help
.PHONY: help demo test chaos fuzz lint format bench bench-full screenshots install lock docs clean

help: ## Show these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

demo: $(READY) ## Import twelve years of purchases from a stand-in vendor on embedded servers
	@$(BIN)/accession demo

test: $(READY) ## Run all tests in parallel; T=tests/imports chooses some
	$(BIN)/coverage erase
	$(BIN)/pytest -n $(JOBS) --cov --cov-report= $(T)
	$(BIN)/coverage report --skip-covered --skip-empty

chaos: $(READY) ## Kill parts of a running import at random, RUNS times (100); SEED=N repeats one
	@$(BIN)/python -m tests.chaos.crashes --runs $(RUNS) $(if $(SEED),--seed $(SEED))

fuzz: $(READY) ## Read N spoilt documents (50000); SEED=N has those of an earlier run again
	@$(BIN)/python -m tests.chaos.fuzzing --inputs $(N) $(if $(SEED),--seed $(SEED))

lint: $(READY) ## Check style, types and the layers of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Bring the code into the house style
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(READY) ## Measure speed and memory in under 10 minutes; PARTS="spans scale" chooses some
	@$(BIN)/python -m benchmarks $(PARTS)

bench-full: $(READY) ## Measure without that bound: 50,000 titles, 200 libraries, a million titles
	@$(BIN)/python -m benchmarks --full $(PARTS)

screenshots: $(READY) ## Take the pictures of the dashboard that stand in the README
	@mkdir -p docs/screens
	SCREENSHOTS=docs/screens $(BIN)/pytest -q -n 0 tests/e2e/screens/test_pictures.py

docs: $(READY) ## Write the generated pages of the documentation
	$(BIN)/python docs/generate.py

install: $(READY) ## Build .venv from the pinned requirement files

$(READY): requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Accession needs Python 3.11, 3.12 or 3.13: name one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Building .venv ..."
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt requirements/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(READY) ## Renew the pinned requirement files from requirements/*.in
	cd requirements && for name in uv run dev; do ../$(BIN)/$(LOCK) $(UPGRADE) $$name.in -o $$name.txt; done

clean: ## Remove .venv and what the tools leave behind
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
