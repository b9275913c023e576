# Everything starts from nothing: each target makes its own virtual environment first.
#   make demo    train on real data, analyse, draw, write a report
#   make test    lint, types and the whole test suite
PYTHON ?= python3
TORCH  ?= $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= runs/demo
PYTEST ?= $(BIN)/python -m pytest -n 2 --dist worksteal
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format check tests notebooks docs bench gpu soak clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PYTHON=$(PYTHON)  TORCH='$(TORCH)'  VENV=$(VENV)  DEMO=$(DEMO)"

# torch goes in first and alone, from whatever index or local folder the installer knows, so that no other package can
# pull another build of it; everything after it is held to constraints.txt.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(BIN)/python
	grep -v -E '^torch(vision)?==' constraints.txt > $(VENV)/constraints.txt
	if [ "$(TORCH)" = "$$(sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)" ]; then cp constraints.txt $(VENV)/constraints.txt; \
	else echo "$(TORCH)" >> $(VENV)/constraints.txt; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" -c $(VENV)/constraints.txt
	touch $@

$(VENV)/.toolkit: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt --no-build-isolation -e .
	touch $@

$(VENV)/.development: $(VENV)/.toolkit
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt --no-build-isolation -e '.[dev,notebooks,peers,lightning,huggingface]'
	touch $@

setup: $(VENV)/.development  ## the virtual environment with everything the tests need

demo: $(VENV)/.toolkit  ## the whole path in one command; the report is runs/demo/report.html
	$(BIN)/landscape reproduce demo --directory $(DEMO)

test: lint check tests  ## lint, types, and the whole test suite

lint: $(VENV)/.development  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: $(VENV)/.development  ## mypy over the packages
	$(BIN)/mypy

tests: $(VENV)/.development  ## the test suite alone
	$(PYTEST)

format: $(VENV)/.development  ## let ruff sort and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.development  ## write the README's generated tables anew
	$(BIN)/landscape list --update README.md

bench: $(VENV)/.development  ## side-by-side measurements beside the installed peers
	for script in tests/benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

gpu: $(VENV)/.development  ## the tests and benchmarks that need an accelerator
	$(BIN)/python -m pytest -m gpu tests
	for script in $$(grep -l -e '"--device"' tests/benchmarks/*.py); do $(BIN)/python $$script --device cuda || exit 1; done

soak: $(VENV)/.development  ## hours of killing, damaging and resuming
	for script in tests/soak/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean:  ## remove what the build and the tests made, but no run
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
