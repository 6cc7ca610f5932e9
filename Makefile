# One obvious command each. Everything is set up in .venv on first use.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo dev test test-newest lint audit fix bench flood overlap fuzz crash soak clean help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.ready: pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.ready  ## set up, make a demo inbox and import it through Dagster
	$(BIN)/importer demo

dev: $(VENV)/.ready  ## the Dagster UI and daemon, on the state that demo left
	$(BIN)/importer dev

# one more than processors: one worker has the tests that mostly wait (importer_dagster_tests/conftest.py)
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count(), 7) + 1)')
test: $(VENV)/.ready  ## set up and run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

NEWEST := .venv-newest
test-newest:  ## run the tests of Dagster's part with the newest Dagster that pip finds, in .venv-newest
	$(PYTHON) -m venv $(NEWEST)
	grep -v '^dagster' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(NEWEST)/constraints.txt --editable '.[dev]'
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade dagster dagster-postgres dagster-webserver 'sqlalchemy<2.1'
	$(NEWEST)/bin/python -m pip list --disable-pip-version-check | grep -i '^dagster'
	$(NEWEST)/bin/python -m pytest -q $(TESTS)
test-newest: TESTS ?= importer_dagster_tests/defs

lint: $(VENV)/.ready  ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/.ready  ## known vulnerabilities of the pinned packages; fails where one cannot be looked up
	$(BIN)/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement constraints.txt

fix: $(VENV)/.ready  ## let the tools mend what they can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.peers: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]' \
		&& touch $@ || echo "The other tools cannot all be installed; those that are missing are left out."

ONLY ?=
bench: $(VENV)/.peers  ## measure everything, half an hour; ONLY="copy merge" for some parts
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

flood: $(VENV)/.ready  ## ten runs at once from schedule, UI and commands: how many write, what waiting costs
	$(BIN)/python -m reliability.flood
	$(BIN)/python -m reliability.flood --caps 3 --same-days
	$(BIN)/python -m reliability.flood --processes 10

overlap: $(VENV)/.ready  ## schedule, backfill, UI and a person import the same file at the same time, 36 times
	$(BIN)/python -m reliability.overlap

MINUTES ?= 5
fuzz: $(VENV)/.ready  ## feed hostile files to the reader; MINUTES=60 for an hour
	$(BIN)/python -m fuzz --minutes $(MINUTES)

ROUNDS ?= 240
SEED ?= 1
crash: $(VENV)/.ready  ## kill importing processes and servers at every step; ROUNDS=30 for a short one
	$(BIN)/python -m reliability.crash --rounds $(ROUNDS) --seed $(SEED)
	$(BIN)/python -m reliability.orchestrated

soak: $(VENV)/.ready  ## a long mixed load under faults, then a count; MINUTES=15 for the long form
	$(BIN)/python -m reliability.soak --minutes $(MINUTES) --seed $(SEED)

clean:  ## remove the virtual environment and the local state
	rm -rf $(VENV) $(NEWEST) .importer
