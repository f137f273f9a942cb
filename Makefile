# Two commands: `make repro` (the main job on embedded defaults) and `make test`. Both set everything up first.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" DVC_NO_ANALYTICS=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
STAMP := $(VENV)/.installed

.PHONY: repro test test-fast lint faults clean setup flow

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python 3.11 $(VENV) && \
	  uv pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[dev]'; \
	else \
	  python3 -m venv $(VENV) && \
	  $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'; \
	fi
	@touch $(STAMP)

repro: setup
	$(RUN) dvc repro
	$(RUN) python -m anosynth verify
	@echo; cat results/report/report.md

flow: setup
	$(RUN) python -m flows.pipeline

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

test: lint
	$(RUN) python -m pytest -m "not faults"

test-fast: setup
	$(RUN) python -m pytest -m "not slow and not faults"

faults: setup
	$(RUN) python -m pytest -m faults

clean:
	rm -rf data models results .anosynth
