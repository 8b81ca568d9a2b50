# ionrt: every target makes what it needs. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# make report PATIENT=/path/to/dicom TARGET=CTV IONS="p C" NOTEBOOK=01_compare_ions
NOTEBOOK ?= $(if $(COHORT),08_exchange_cohort 09_outcomes 10_ntcp,01_compare_ions)
ARGS := $(if $(PATIENT),--patient "$(PATIENT)") $(if $(TARGET),--target "$(TARGET)") $(if $(COHORT),--cohort "$(COHORT)") $(foreach p,$(PARAM),-p "$(p)")

.PHONY: help setup report test lab lint lock benchmark clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## environment in .venv, pinned by constraints.txt

$(READY): constraints.txt pyproject.toml
	@echo "Setting up $(VENV) (once; less than a minute with a warm package cache)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo "uv is not to be had: using pip (slower)"
	@if $(BIN)/python -m uv --version >/dev/null 2>&1; then \
	  VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/python -m uv pip install --quiet --require-hashes -r constraints.txt && \
	  VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/python -m uv pip install --quiet --no-deps -e . ; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e . ; \
	fi
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@printf '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}\n' > $(VENV)/share/jupyter/lab/settings/overrides.json
	@touch $@

report: $(READY)  ## reports/compare_ions.html; PATIENT=dicom folder, TARGET=structure, COHORT=tables folder
	@$(BIN)/python -m ionrt report $(NOTEBOOK) $(ARGS)

test: $(READY)  ## all tests and notebooks
	@$(BIN)/python -m pytest -n 2 --dist loadscope --nbval --nbval-sanitize-with notebooks/sanitise.cfg $(PYTEST_ARGS)

lab: $(READY)  ## JupyterLab at the start notebook
	@$(BIN)/jupyter lab notebooks/00_start_here.ipynb

lint: $(READY)  ## style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lock: $(READY)  ## renew constraints.txt from pyproject.toml
	@$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra test --extra dev --extra docs pyproject.toml -o constraints.txt --upgrade

benchmark: $(READY)  ## figures of benchmarks/, minutes
	@for f in benchmarks/*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

clean:  ## remove reports and caches of this folder (not .venv)
	@rm -rf reports .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
