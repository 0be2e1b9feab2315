# Two commands are all that a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

DEMO_DISTRIBUTIONS := --editable . --editable tasks/lawbench --editable plugins/playbook \
	--editable algorithms --editable plugins/torch
ALL_DISTRIBUTIONS := --editable .[dev] --editable tasks/lawbench --editable plugins/playbook \
	--editable algorithms[test] --editable plugins/torch --editable plugins/claude --editable plugins/litellm \
	--editable tasks/trimul
SOURCES := pyproject.toml constraints.txt $(wildcard */pyproject.toml tasks/*/pyproject.toml plugins/*/pyproject.toml)

# What some tests need beside Python; without it they skip, and say so.
DEBIAN_PACKAGES := bubblewrap strace

.PHONY: demo test test-all bench-rl bench-rollout bench-gate bench-start bench-evaluations bench-trimul lint clean debian-packages

demo: $(VENV)/demo.stamp  ## Improve an agent on the real LawBench data: no key, no GPU, no service.
	$(BIN)/sia run --plugin lawbench --levers harness,weights --seed 0 --budget seconds=420

test: $(VENV)/all.stamp lint debian-packages  ## Install everything; the tests that take under 10 minutes.
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/all.stamp debian-packages  ## The slow tests too: whole runs, killed runs, cross-validation.
	$(BIN)/python -m pytest -q -m slow

bench-rl: $(VENV)/all.stamp  ## One RL step beside TRL's, interleaved; wants a quiet machine.
	$(BIN)/python plugins/torch/bench/rl_step.py
	$(BIN)/python plugins/torch/bench/rl_step.py --prompt 512 --new 128

bench-rollout: $(VENV)/all.stamp  ## Rollouts a second, with everything on but the model.
	$(BIN)/python bench/rollout.py

bench-gate: $(VENV)/all.stamp  ## The tables of docs/gate.md: what the gate promises, by simulation.
	$(BIN)/python bench/gate.py --write docs/gate.md

bench-start: $(VENV)/all.stamp  ## How long a worker takes to start, with nothing, numpy and torch.
	$(BIN)/python bench/start.py

bench-evaluations: $(VENV)/all.stamp  ## New candidates a second, each in a sandbox of its own, and with endless loops among them.
	$(BIN)/python bench/evaluations.py

bench-trimul: $(VENV)/all.stamp  ## TriMul's best kernels beside the baseline, on the CUDA device where there is one, and on the CPU.
	$(BIN)/python tasks/trimul/bench/measure.py --write tasks/trimul/results/README.md

debian-packages:  ## What tests need of the system, where root may install it.
	@if dpkg -s $(DEBIAN_PACKAGES) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq $(DEBIAN_PACKAGES) || \
		echo "$(DEBIAN_PACKAGES): could not be installed; the tests that need them skip"; \
	else echo "$(DEBIAN_PACKAGES): not installed, as that takes root and apt-get; the tests that need them skip"; fi

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
