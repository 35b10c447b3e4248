# A fresh clone needs nothing but `make train` or `make test`: each first builds .venv from the lock file.
PYTHON ?= python3
MAIN ?= doom/fetch/prompted
BIN := .venv/bin
STAMP := .venv/.matches-the-lock
DOCS_BIN := .venv-docs/bin
DOCS_STAMP := .venv-docs/.matches-the-lock
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
FIND_CHROMIUM := $(BIN)/python -c 'from pr2l.environments.browser.executable import find; print(f"Chromium: {find()}")'
# Files in the order of collection: by number of tests, which is the default, long files of few tests would come last.
PARALLEL := --numprocesses logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help train android browser smoke bench leaderboard docs test coverage test-all sims lint

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

train: $(STAMP) ## train the main agent (MAIN=<config>), with a curve, a video and a table at the end
	$(BIN)/pr2l train $(MAIN)

android: browser ## train an agent that operates a phone in the browser, with a film and a table at the end
	@# A script that random actions have led astray warns; here that is wanted, because DigiRL needs failures.
	PYTHONWARNINGS="ignore:the script of" $(BIN)/pr2l collect phone mini \
		'templates=[SystemWifiTurnOn,SystemBluetoothTurnOff]' \
		--policy oracle --noise 0.3 --labels --episodes 100 --output data/phone
	$(BIN)/pr2l train phone/mini/digirl

browser: $(STAMP) ## install Chromium's headless shell by apt-get, as root or with sudo, unless it is there
	@$(FIND_CHROMIUM) 2>/dev/null || { \
		test -z "$$PR2L_CHROMIUM" || exec $(FIND_CHROMIUM); \
		echo "There is no headless Chromium. This installs Debian's package chromium-headless-shell:"; \
		set -ex; $(SUDO) apt-get update; $(SUDO) apt-get install --yes chromium-headless-shell; \
		$(FIND_CHROMIUM); }

smoke: $(STAMP) ## run the whole pipeline on a toy scale, in under a minute
	$(BIN)/pr2l train smoke

bench: $(STAMP) ## measure how fast frames become embeddings here, against the goals
	$(BIN)/pr2l speed tiny smolvlm-256m

leaderboard: $(STAMP) ## build the leaderboard's pages from the committed rows: runs/site/index.html
	$(BIN)/pr2l bench site

docs: $(DOCS_STAMP) ## build the documentation site in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS_BIN)/mkdocs build

test: $(STAMP) ## run all but the slow tests, one process per core (at most 8)
	$(BIN)/python -m pytest $(PARALLEL)

coverage: $(STAMP) ## run the same tests and list the lines that none reaches in htmlcov/
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=html --cov-report=term:skip-covered

test-all: sims ## run all tests, also the slow ones and those of the simulators
	$(BIN)/python -m pytest -m "not sims" $(PARALLEL)

sims: $(STAMP) ## install the simulators that need an interpreter of their own, and test them
	$(BIN)/pr2l sim install habitat-lite
	$(BIN)/pr2l sim install minedojo
	$(BIN)/pr2l sim install android
	$(BIN)/python -m pytest -m sims

lint: $(STAMP) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"the lock file is for Python 3.11 or later, and $(PYTHON) is older; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --requirement requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch $@

# The site is made from the sources alone, so its environment holds nothing of pr2l.
$(DOCS_STAMP): requirements-docs.lock
	test -x $(DOCS_BIN)/python || $(PYTHON) -m venv .venv-docs
	$(DOCS_BIN)/python -m pip install --requirement requirements-docs.lock
	touch $@
