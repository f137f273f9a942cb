# `make repro` is the main job, on the defaults that the repository carries; `make test` is what a change must pass.
# Both set the environment up first, with uv where it is installed, else with pip.
SHELL := /bin/bash
VENV := .venv
PYTHON ?= $(shell for one in python3.11 python3.12 python3; do "$$one" -c "" 2>/dev/null && echo "$$one" && break; done)
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" DVC_NO_ANALYTICS=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
STAMP := $(VENV)/.installed

.PHONY: setup repro flow verify test test-fast faults lint bsdata-dev bsdata-test docs clean

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python '>=3.11,<3.13' $(VENV) && \
	  uv pip install --quiet --python $(VENV)/bin/python --constraint constraints.txt --editable '.[dev]'; \
	else \
	  "$(PYTHON)" -m venv $(VENV) && \
	  $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $(STAMP)

# params first: DVC ends with 255 whatever a stage ended with, make with 2, and here the reason stands alone.
repro: setup
	@$(RUN) python -m anosynth params >/dev/null
	$(RUN) dvc repro
	$(RUN) python -m anosynth verify
	@echo; cat results/report/report.md

flow: setup
	$(RUN) python -m flows.pipeline

verify: setup
	$(RUN) python -m anosynth verify

# Every test computes on one thread, so WORKERS of them run side by side; tests/conftest.py says what stays together.
WORKERS ?= 2
PYTEST := python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test: lint
	$(RUN) $(PYTEST) -m "not faults"

test-fast: setup
	$(RUN) $(PYTEST) -m "not slow and not faults"

faults: setup
	$(RUN) python -m pytest -m faults

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

# BSData's folder is ANOSYNTH_BSDATA, else source.root of examples/bsdata.params.yaml. A look at the true test is logged
# in docs/test-looks.md: make bsdata-test WHY="release 0.1".
WHY ?= not said
bsdata-dev: setup
	$(RUN) python examples/bsdata.py dev

bsdata-test: setup
	$(RUN) python examples/bsdata.py test --why "$(WHY)"

docs: setup
	$(RUN) python -m anosynth.params_reference > docs/params.md

# What runs made: the store of shards, DVC's cache and the pretraining's pictures and checkpoints included.
# The environment stays.
clean:
	rm -rf data models results .anosynth .dvc/cache .dvc/tmp
