# Everything here needs Python 3.11 or newer with pip, make, and the package registries. Nothing else.
.DEFAULT_GOAL := help
.PHONY: help demo up test check proof audit bench format clean

PYTHON ?= python3
VENV := .venv
UV := $(VENV)/bin/uv
RUN := $(VENV)/bin
READY := $(VENV)/.ready
# Processes are started by the hundred, and each would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE

help:  ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## Reserve through HTTP, Postgres and Kafka, kill processes on the way, prove nothing was lost
	@$(RUN)/innbox demo

up: $(READY)  ## Run everything on embedded servers until Ctrl-C
	@$(RUN)/innbox up

test: check  ## All tests, with real servers
	$(RUN)/pytest -m "not unit and not proof" -n 3 --dist worksteal

check: $(READY)  ## Format, lint, types, import contracts, words and the tests that need no server
	$(RUN)/ruff format --check
	$(RUN)/ruff check
	$(RUN)/mypy
	$(RUN)/mypy examples
	$(RUN)/lint-imports
	$(RUN)/python -m tests.support.words
	$(RUN)/pytest -m unit -q -n 2

proof: $(READY)  ## Long proofs against real servers: every fault, twenty seeds each
	$(RUN)/pytest -m proof -n 3 --dist worksteal

audit: $(READY)  ## Ask PyPI for advisories about what uv.lock names; what cannot be asked fails
	@$(UV) export --quiet --frozen --all-extras --no-emit-workspace --output-file $(VENV)/locked.txt
	$(RUN)/pip-audit --strict --requirement $(VENV)/locked.txt --disable-pip --require-hashes

BENCHES := relay "relay --mode exactly-once" latency "latency --mode exactly-once" writers contention consumer cost \
	api inventory saga growth

bench: $(READY)  ## Measure everything beside its baseline, in some twenty minutes (one: innbox bench --help)
	@for bench in $(BENCHES); do $(RUN)/innbox bench $$bench || exit 1; done

format: $(READY)  ## Format and mend what can be mended
	$(RUN)/ruff format
	$(RUN)/ruff check --fix

clean:  ## Remove the virtual environment and the tools' caches; data stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(READY): pyproject.toml uv.lock $(wildcard */pyproject.toml */*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "innbox needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@test -x $(UV) || { echo "Making a virtual environment in $(VENV) …"; \
	  $(PYTHON) -m venv $(VENV) && $(RUN)/python -m pip install --quiet uv; }
	@echo "Installing what uv.lock names …"
	@$(UV) sync --quiet --frozen --all-extras
	@touch $@
