# Two commands are all that a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

DEMO_DISTRIBUTIONS := --editable . --editable tasks/lawbench --editable plugins/playbook \
	--editable algorithms --editable plugins/torch
ALL_DISTRIBUTIONS := --editable .[dev] --editable tasks/lawbench --editable plugins/playbook \
	--editable algorithms[test] --editable plugins/torch --editable plugins/claude --editable plugins/litellm
SOURCES := pyproject.toml constraints.txt $(wildcard */pyproject.toml tasks/*/pyproject.toml plugins/*/pyproject.toml)

.PHONY: demo test test-all bench-rl bench-rollout lint clean

demo: $(VENV)/demo.stamp  ## Improve an agent on the real LawBench data: no key, no GPU, no service.
	$(BIN)/sia run --plugin lawbench --levers harness,weights --seed 0 --budget seconds=420

test: $(VENV)/all.stamp lint  ## Install everything; the tests that take under 10 minutes.
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/all.stamp  ## The slow tests too: whole runs, killed runs, cross-validation.
	$(BIN)/python -m pytest -q -m slow

bench-rl: $(VENV)/all.stamp  ## One RL step beside TRL's, interleaved; wants a quiet machine.
	$(BIN)/python plugins/torch/bench/rl_step.py

bench-rollout: $(VENV)/all.stamp  ## Rollouts a second, with everything on but the model.
	$(BIN)/python bench/rollout.py

lint: $(VENV)/all.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(SOURCES) | $(BIN)/python
	$(PIP) $(DEMO_DISTRIBUTIONS)
	touch $@

$(VENV)/all.stamp: $(SOURCES) | $(BIN)/python
	$(PIP) $(ALL_DISTRIBUTIONS)
	touch $@ $(VENV)/demo.stamp
