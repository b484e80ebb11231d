# Everything a newcomer needs: `make run`, `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
.PHONY: help setup run test lint types check format bench soak clean

PYTHON_ENV := .venv/bin/python

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what is missing for running and for tests; quick when nothing is
	@ops/setup.sh --dev

run: ## serve on every interface, on PORT (8000); ARGS are handed to voice-engine serve
	@ops/setup.sh
	@exec .venv/bin/voice-engine serve $(ARGS)

test: setup ## run the tests; ARGS="tests/test_x.py -k name" picks some
	@$(PYTHON_ENV) -m pytest $(ARGS)

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

bench-memory: setup ## plot how a worker's memory grows, with each measure off and on
	@$(PYTHON_ENV) -m tests.bench.memory_growth $(ARGS)

soak: setup ## use the service for MINUTES (10) while it is hurt; see tests/soak/ for all settings
	@$(PYTHON_ENV) -m tests.soak $(foreach name,MINUTES SEED ENGINES CHAOS CLIENTS OUT MODELS,\
		$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) $($(name))))

clean: ## remove .venv and caches; models and voices stay
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
