# Everything a newcomer needs: `make run`, `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast lint types check format bench bench-peers bench-memory soak clean

PYTHON_ENV := .venv/bin/python

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what is missing for running and for tests; quick when nothing is
	@ops/setup.sh --dev

run: ## serve on every interface, on PORT (8000); SLIM=1 sets up without neural engines
	@ops/setup.sh
	@exec .venv/bin/voice-engine serve $(ARGS)

# Each test process keeps what it compiles; otherwise every run, and every child, compiles it anew.
test test-fast: export PYTHONDONTWRITEBYTECODE =

# A worker takes the second half of what another has left, so that tests of one file, which share a
# running service, mostly stay together.
IN_PARALLEL = -n $(WORKERS) --dist worksteal --durations 10
WORKERS ?= 3

# What is not installed is not tested.
INSTALLED = $(if $(filter-out 0 no false,$(SLIM)),-m "not neural")

test: setup ## run all tests on WORKERS (3); ARGS="tests/unit/test_x.py -k name" picks some
	@$(PYTHON_ENV) -m pytest $(if $(ARGS),$(ARGS),$(IN_PARALLEL) --cov) $(INSTALLED)

test-fast: setup ## run the unit tests and the quickest with real processes, in a minute
	@$(PYTHON_ENV) -m pytest $(IN_PARALLEL) \
		-m "(unit or quick)$(if $(INSTALLED), and not neural)" tests/unit tests/process $(ARGS)

lint: setup ## check format and style
	@$(PYTHON_ENV) -m ruff format --check .
	@$(PYTHON_ENV) -m ruff check .

types: setup ## check types
	@$(PYTHON_ENV) -m mypy

check: lint types test ## every check: format, style, types, tests

format: setup ## put the code into its format
	@$(PYTHON_ENV) -m ruff format .
	@$(PYTHON_ENV) -m ruff check --fix .

bench: setup ## measure speed and memory; ARGS are handed on
	@$(PYTHON_ENV) -m tests.bench $(ARGS)

bench-peers: setup ## measure against the models' own servers; ARGS="--write" puts the result into docs
	@$(PYTHON_ENV) -m tests.bench.peers $(ARGS)

bench-memory: setup ## plot how a worker's memory grows, with each measure off and on
	@$(PYTHON_ENV) -m tests.bench.memory_growth $(ARGS)

soak: setup ## use the service for MINUTES (10) while it is hurt; see tests/soak/ for all settings
	@$(PYTHON_ENV) -m tests.soak $(foreach name,MINUTES SEED ENGINES CHAOS STORM CLIENTS OUT MODELS,\
		$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) $($(name))))

clean: ## remove .venv, .venv-clients and caches; models and voices stay
	rm -rf .venv .venv-clients build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
