# ionrt: every target makes what it needs. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# make report PATIENT=/path/to/dicom TARGET=CTV PARAM='ions=[p,C] spacing=5' NOTEBOOK=01_compare_ions
NOTEBOOK ?= $(if $(COHORT),08_exchange_cohort 09_outcomes 10_ntcp,01_compare_ions)
ARGS := $(if $(PATIENT),--patient "$(PATIENT)") $(foreach d,$(DAYS),--days "$(d)") $(if $(TARGET),--target "$(TARGET)") $(if $(COHORT),--cohort "$(COHORT)") $(foreach p,$(PARAM),-p "$(p)")

# a variable that nothing reads would be ignored without a word
KNOWN := PATIENT DAYS TARGET COHORT PARAM NOTEBOOK PYTHON PYTEST_ARGS
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command line,$(origin $(v))),$(v)))
UNKNOWN := $(filter-out $(KNOWN) MAKEFLAGS MFLAGS MAKEOVERRIDES -%,$(GIVEN))
ifneq ($(strip $(UNKNOWN)),)
$(error $(strip $(UNKNOWN)): not known here; there are $(KNOWN). Parameters of a notebook: PARAM='ions=[p,C] spacing=5')
endif

.PHONY: help setup report indications test lab lint lock benchmark docs clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@printf '\nmake report takes\n  PATIENT=dicom folder   TARGET=structure   COHORT=folder of tables   NOTEBOOK=07_gantry_or_fixed\n  DAYS="folder folder"   daily CTs that are not below PATIENT, for NOTEBOOK=14_image_guidance\n'
	@printf "  PARAM='name=value name=value'   any parameter of the notebook, without blanks within a value: PARAM='ions=[p,C] spacing=5'\n"
	@printf 'make setup takes PYTHON=python3.13; without make: README, "Without make".\n'

setup: $(READY)  ## environment in .venv, pinned by constraints.txt, compiled

# Compiled here, once: where Python may write no bytecode, every kernel would compile everything again.
$(READY): constraints.txt pyproject.toml
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once; a minute or two with a warm package cache)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  packages: about 200, 1.3 GB on disk; each is checked against its hash"
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; then \
	  $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r constraints.txt && \
	  $(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps -e .; \
	else \
	  echo "uv is not to be had: the same packages with the same hashes by pip, which is slower"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .; \
	fi
	@echo "  compiling ionrt"
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q ionrt
	@mkdir -p $(VENV)/share/jupyter/lab/settings
	@printf '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}\n' > $(VENV)/share/jupyter/lab/settings/overrides.json
	@touch $@
	@echo "  ready; for ionrt and python of this environment in a shell: source $(BIN)/activate"

report: $(READY)  ## reports/compare_ions.html; PATIENT= TARGET= COHORT= NOTEBOOK= PARAM=, see below
	@$(BIN)/python -m ionrt report $(NOTEBOOK) $(ARGS)

indications: $(READY)  ## reports/indications/index.html: one page per indication
	@$(BIN)/python -m ionrt indications

test: $(READY)  ## all tests and notebooks
	@$(BIN)/python -m pytest -n 2 --dist loadscope --nbval --nbval-sanitize-with notebooks/sanitise.cfg $(PYTEST_ARGS)

lab: export PATH := $(CURDIR)/$(BIN):$(PATH)  # !python in a cell is that of the environment
lab: $(READY)  ## JupyterLab at the start notebook
	@$(BIN)/jupyter lab notebooks/00_start_here.ipynb

lint: $(READY)  ## style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lock: $(READY)  ## renew constraints.txt from pyproject.toml
	@$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --extra test --extra dev --extra docs pyproject.toml -o constraints.txt --upgrade

benchmark: $(READY)  ## figures of benchmarks/, minutes
	@for f in benchmarks/*.py; do echo "== $$f"; $(BIN)/python $$f || exit 1; done

docs: $(READY)  ## the documentation site, offline: site/index.html
	@$(BIN)/python -m sphinx -W -q -b html docs site
	@echo "site/index.html"

clean:  ## remove reports and caches of this folder (not .venv)
	@rm -rf reports .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
