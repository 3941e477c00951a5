# `make demo` and `make test` work on a fresh clone with Python 3.11+ and make. A second call installs nothing.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# The first Python on the PATH that is new enough; `make PYTHON=… demo` names another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PORT ?= 3000
BIN := .venv/bin
# dvc.yaml calls `ppd` and `python` by name: the environment's own come first.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Beside a training the start of a run, or a sensor's tick, may take minutes. After 60 s, Dagster's own limit, the run is
# marked as failed although it is being started.
PATIENT := DAGSTER_GRPC_TIMEOUT_SECONDS=600 DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD=60
INSTALLED := .venv/installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED):
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer on the PATH; name one with make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,studio]"
	rm -f .venv/installed-*
	touch $@

.PHONY: install
install: $(INSTALLED) ## create .venv and install what constraints.txt pins

.PHONY: data
data: $(INSTALLED) ## fetch what data.dvc tracks; files of your own in data/ stay as they are
	@problem=$$($(BIN)/dvc pull -r store data.dvc 2>&1) || { \
		grep -q "unsaved files" <<< "$$problem" || { echo "$$problem" >&2; exit 1; }; \
		for part in choices models stickers truth; do \
			test -e data/$$part || $(BIN)/dvc pull --quiet -r store data/$$part; \
		done; \
		echo "data/ holds files of your own: they stay, and only folders that are missing were fetched"; \
	}

.PHONY: demo
demo: data ## run the whole pipeline on the sticker world
	$(BIN)/dvc repro
	$(BIN)/ppd times
	@echo "The report: $(CURDIR)/reports/index.html"

.PHONY: ui
ui: data ## the Dagster UI on the same pipeline, at http://127.0.0.1:3000
	mkdir -p .dagster
	cp orchestration/dagster.yaml .dagster/dagster.yaml
	DAGSTER_HOME=$(CURDIR)/.dagster $(PATIENT) $(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT)

.PHONY: send-results
send-results: data ## on a machine with a GPU: run what is out of date, then send it to git and to your DVC remote
	$(BIN)/dvc --wait-for-lock repro
	$(BIN)/python -m orchestration.record --push

.PHONY: get-results
get-results: $(INSTALLED) ## elsewhere: take those results, and compute nothing
	git pull --ff-only
	$(BIN)/dvc --wait-for-lock pull --run-cache

.PHONY: studio
studio: data ## choose four times and see a model draw for you, at http://127.0.0.1:8765 (after make demo)
	$(BIN)/ppd studio

.PHONY: test
test: data ## ruff, mypy and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=25

.PHONY: track-data
track-data: $(INSTALLED) ## for maintainers: after data/ has changed, record it in data.dvc and in the remote inside this repository
	$(BIN)/dvc add data
	$(BIN)/dvc push -r store data.dvc
	@echo "Commit data.dvc and .dvc/store together."

.PHONY: lock
lock: $(INSTALLED) ## for maintainers: rewrite constraints.txt from what is installed
	{ sed -n '/^#/p' constraints.txt; $(BIN)/pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' | LC_ALL=C sort -f; } > constraints.new
	mv constraints.new constraints.txt
