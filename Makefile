# Commands of the project: `make help` lists them. Each builds .venv first if it is missing or out of date.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
LOCK := uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header
# Many tests wait for other processes, so twice as many test processes as cores finish earliest.
JOBS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
# Tests of one file share installations that take seconds to start.
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder
T ?= tests
RUNS ?= 100
N ?= 50000
DIST ?= dist
CLIENTS := tests/acceptance/clients

# Tests start hundreds of processes, each of which would compile all modules.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo check test cluster servers packages acceptance chaos fuzz lint format bench bench-full screenshots docs docs-site dist install lock lock-clients clean

help: ## Show these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

demo: $(READY) ## Import twelve years of purchases from a simulated vendor on embedded servers
	@$(BIN)/accession demo

check: lint ## Run the linters and the unit tests; for every edit, in under 2 minutes
	$(BIN)/pytest -q $(PARALLEL) tests/unit

# Only the whole run can reach the coverage that is required, so a part runs without measuring it.
test: $(READY) ## Run all tests but those of make cluster, servers, packages and acceptance; T=tests/unit/core or T="tests/unit -k marc" runs a part
ifeq ($(T),tests)
	$(BIN)/coverage erase
	$(BIN)/pytest $(PARALLEL) --ignore tests/cluster --ignore tests/servers --ignore tests/packages --ignore tests/acceptance --cov --cov-report= --cov-fail-under=0
	$(BIN)/coverage report --skip-covered --skip-empty
else
	$(BIN)/pytest $(PARALLEL) $(T)
endif

cluster: $(READY) ## Import on several machines, of which one is lost; as root, with iproute2
	RECOVERY_TABLE=docs/operations.md $(BIN)/pytest -n 0 tests/cluster

servers: $(READY) ## Import through servers of Debian: PgBouncer, PostgreSQL and Redis with TLS, and others
	$(BIN)/pytest -n 0 tests/servers

packages: $(READY) ## Build the packages, install them elsewhere and run the demo from them
	$(BIN)/pytest -n 0 tests/packages

acceptance: $(READY) ## Let programs of others use a running installation: Palace, Readium, Sickle, DuckDB, Lighthouse, nginx, Schemathesis
	$(BIN)/pytest -n 0 tests/acceptance tests/servers/test_nginx.py tests/integration/web/test_api_schema.py \
	  tests/integration/web/test_api_boundary_values.py

chaos: $(READY) ## Import from an unreliable vendor, and kill processes at random, RUNS times each (100) from SEED=N on
	@CHAOS_RUNS=$(RUNS) CHAOS_SEED=$(or $(SEED),0) $(BIN)/pytest -q -x -n $(JOBS) tests/chaos/test_changing_list.py \
	  tests/chaos/test_simulation.py
	@$(BIN)/python -m tests.chaos.crashes --runs $(RUNS) $(if $(SEED),--seed $(SEED))

fuzz: $(READY) ## Parse N malformed documents (50000); SEED=N repeats an earlier run
	@$(BIN)/python -m tests.chaos.fuzzing --inputs $(N) $(if $(SEED),--seed $(SEED))

lint: $(READY) ## Check style, spelling, language, types, layers and the documentation site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/python -m tools.check_language
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory docs-site

format: $(READY) ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(READY) ## Measure speed and memory in under 10 minutes; PARTS="spans scale" selects some
	@$(BIN)/python -m benchmarks $(PARTS)

bench-full: $(READY) ## Measure with up to 50,000 titles, 200 libraries and a million titles; takes hours
	@$(BIN)/python -m benchmarks --full $(PARTS)

screenshots: $(READY) ## Take the screenshots of the dashboard in README.md
	@mkdir -p docs/screens
	SCREENSHOTS=docs/screens $(BIN)/pytest -q -n 0 tests/e2e/screens/screenshots.py

docs: $(READY) ## Generate docs/cli.md and docs/configuration.md from the code
	$(BIN)/python docs/generate.py

# Sphinx reports a broken link only when it reads the page, so every build reads all pages (-E -a).
docs-site: $(READY) ## Build the documentation site in build/site; a broken link or missing page fails
	$(BIN)/sphinx-build -q -E -a -W --keep-going -n -c docs -d build/doctrees -b html . build/site

dist: $(READY) ## Build the packages of a release with their list of dependencies (SBOM) in dist/, and check them
	rm -rf $(DIST)
	$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir $(DIST)
	$(BIN)/twine check --strict $(DIST)/*
	$(BIN)/check-wheel-contents $(DIST)/*.whl
	$(BIN)/python -m tools.sbom $(DIST)/*.whl

install: $(READY) ## Build .venv from the pinned requirement files

$(READY): requirements/dev.txt requirements/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Accession needs Python 3.11 or newer: name one, as in: make PYTHON=python3.14 $(MAKECMDGOALS)"; exit 1; }
	@echo "Building .venv ..."
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt requirements/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lock: $(READY) ## Renew the pinned requirement files from requirements/*.in; UPGRADE=--upgrade takes new versions
	cd requirements && for name in uv run dev; do ../$(BIN)/$(LOCK) --python-version 3.11 $(UPGRADE) $$name.in -o $$name.txt; done

lock-clients: $(READY) ## Renew the pinned files of the programs that make acceptance installs; needs npm
	cd $(CLIENTS) && ../../../$(BIN)/$(LOCK) --python-version 3.11 $(UPGRADE) tables.in -o tables.txt
	cd $(CLIENTS) && ../../../$(BIN)/$(LOCK) --python-version 3.12 $(UPGRADE) palace.in -o palace.txt
	npm install --package-lock-only --prefix $(CLIENTS)/node

clean: ## Remove .venv, the documentation site, the packages and the caches of the tools
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
