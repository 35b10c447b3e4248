# `make train` or `make test` is all that a fresh clone needs: each first builds .venv from the lock file.
PYTHON ?= python3
MAIN ?= doom/fetch/prompted
BIN := .venv/bin
STAMP := .venv/.matches-the-lock
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help train smoke bench leaderboard test coverage test-all sims lint

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

train: $(STAMP) ## train the main agent (MAIN=<config>), with a curve, a video and a table at the end
	$(BIN)/pr2l train $(MAIN)

smoke: $(STAMP) ## the whole pipeline on a toy scale, in under a minute
	$(BIN)/pr2l train smoke

bench: $(STAMP) ## how fast frames become embeddings on this machine, with a verdict for each promise
	$(BIN)/pr2l speed tiny smolvlm-256m

leaderboard: $(STAMP) ## build the leaderboard's pages from the committed rows: runs/site/index.html
	$(BIN)/pr2l bench site

test: $(STAMP) ## run all but the slow tests, one process per core (at most 8)
	$(BIN)/python -m pytest $(PARALLEL)

coverage: $(STAMP) ## the same, with the lines that no test reaches in htmlcov/
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=html --cov-report=term:skip-covered

test-all: sims ## also the slow tests, and those that need the simulators' interpreters
	$(BIN)/python -m pytest -m "not sims"

sims: $(STAMP) ## build the simulators that have an interpreter of their own, and test with them
	$(BIN)/pr2l sim install habitat-lite
	$(BIN)/pr2l sim install minedojo
	$(BIN)/python -m pytest -m sims

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"the lock file is for Python 3.11 or later, and $(PYTHON) is older; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --requirement requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@
