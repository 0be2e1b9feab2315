# A newcomer needs `make install`, `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# pip reads these where it makes a wheel, too: in an environment that it fills for that alone.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt

OWN := --editable . --editable plugins/runtime --editable plugins/adapters --editable plugins/reading --editable plugins/weights --editable plugins/llm --editable plugins/audit \
	--editable plugins/compare --editable plugins/testing --editable plugins/released --editable plugins/deploy --editable plugins/playbook --editable plugins/cli
DISTRIBUTIONS := $(OWN) --editable tasks/lawbench
DEMO_DISTRIBUTIONS := $(DISTRIBUTIONS) --editable tasks/reasoning --editable algorithms --editable plugins/torch
ALL_DISTRIBUTIONS := $(OWN) --editable .[dev] --editable plugins/attacks \
	--editable tasks/bundled --editable tasks/denoising[h5ad,picture,test] --editable tasks/lawbench --editable tasks/reasoning \
	--editable tasks/trimul[test] \
	--editable algorithms[test] \
	--editable backends/modal --editable backends/ray \
	--editable plugins/claude --editable plugins/dashboard[test] --editable plugins/litellm \
	--editable plugins/tinker --editable plugins/torch[test] \
	--editable plugins/trackers[tensorboard,trackio,wandb,test] --editable plugins/vllm
SOURCES := pyproject.toml constraints.txt $(wildcard */pyproject.toml */*/pyproject.toml)

# What some tests need beside Python; without it they skip, and say so.
DEBIAN_PACKAGES := bubblewrap strace
BROWSER_PACKAGES := chromium

.PHONY: install demo demo-lawbench docs wheels try-wheels test test-fast test-all suite-of-runs suite-of-packages lint clean debian-packages browser-packages real-servers bench-rl bench-rollout bench-gate \
	bench-start bench-evaluations bench-pages bench-cli bench-driver bench-trimul test-cuda check-modal

install: $(VENV)/install.stamp  ## The command sia with what it stands on, and LawBench.

demo: $(VENV)/demo.stamp  ## Edit a real model's harness and train its weights: no key, no GPU, no service.
	$(BIN)/sia run --plugin reasoning --policy smollm2 --levers harness,weights --generations 2 --seed 0 --budget seconds=900
	$(BIN)/sia show --answers 3

demo-lawbench: $(VENV)/demo.stamp  ## Both levers on the real LawBench data, with a small policy that starts from scratch.
	$(BIN)/sia run --plugin lawbench --levers harness,weights --generations 16 --seed 0 --budget seconds=420

test-fast: $(VENV)/all.stamp  ## In a minute: what starts no process, reads no real data and computes little.
	$(BIN)/python -m pytest -q --fast --numprocesses auto tests/unit algorithms/tests plugins/playbook/tests

test: $(VENV)/all.stamp lint debian-packages  ## Install everything; the tests that take under 10 minutes.
	$(SUITES) WHICH="not slow"

test-all: $(VENV)/all.stamp debian-packages browser-packages  ## The slow tests too: whole runs, killed runs, cross-validation.
	$(SUITES) WHICH="slow and not exhaustive"

# Side by side, as most of their time they wait for processes of their own.
SUITES = $(MAKE) --no-print-directory --jobs=2 --keep-going suite-of-runs suite-of-packages

suite-of-runs:
	$(BIN)/python -m pytest -q -m "$(WHICH)" tests

suite-of-packages:
	$(BIN)/python -m pytest -q -m "$(WHICH)" tasks plugins algorithms backends

bench-rl: $(VENV)/all.stamp  ## One RL step beside TRL's, interleaved; wants a quiet machine.
	$(BIN)/python plugins/torch/bench/rl_step.py
	$(BIN)/python plugins/torch/bench/rl_step.py --prompt 512 --new 128
	$(BIN)/python plugins/torch/bench/rl_step.py --policy smollm2 --prompt 100 --new 48 --steps 3 --dtypes float32 bfloat16
	$(BIN)/python plugins/torch/bench/learning_words.py

bench-rollout: $(VENV)/all.stamp  ## Rollouts a second, with everything on but the model.
	$(BIN)/python bench/rollout.py

bench-gate: $(VENV)/all.stamp  ## The tables of docs/gate.md: what the gate promises, by simulation.
	$(BIN)/python bench/gate.py --write docs/gate.md

bench-start: $(VENV)/all.stamp  ## How long a worker takes to start, with nothing, numpy and torch.
	$(BIN)/python bench/start.py

bench-evaluations: $(VENV)/all.stamp  ## New candidates a second, each in a separate sandbox, and with endless loops among them.
	$(BIN)/python bench/evaluations.py

bench-pages: $(VENV)/all.stamp browser-packages  ## How long 10,000 rollouts take to their first content in a browser.
	$(BIN)/python plugins/dashboard/bench/first_content.py

bench-cli: $(VENV)/all.stamp  ## What `sia --help` and `sia plugins` cost, beside an empty interpreter.
	$(BIN)/python bench/cli.py

bench-driver: $(VENV)/all.stamp  ## Results a second that the driver books from 64 workers of instant jobs.
	$(BIN)/python bench/driver.py --least 300

bench-trimul: $(VENV)/all.stamp  ## TriMul's kernels beside the baseline, on the CUDA device where there is one, and on the CPU.
	$(BIN)/python tasks/trimul/bench/measure.py --write tasks/trimul/results/README.md

test-cuda: $(VENV)/all.stamp  ## What takes a CUDA device: sandboxes that hand one out, TriMul's judge, every cheat, every shape.
	$(BIN)/pip install -q --constraint constraints.txt --editable tasks/trimul[cuda,test]
	$(BIN)/python -m pytest -q -rs -m "" tests/sandbox/test_cuda.py tasks/trimul/tests/test_trimul_device.py \
		tasks/trimul/tests/test_trimul_cheats.py tasks/trimul/tests/test_trimul_results.py

check-modal: $(VENV)/all.stamp wheels  ## The backend's contract on Modal itself; needs a token and costs a few cents.
	SIA_WHEELS=dist $(BIN)/python -m pytest -q backends/modal/tests/test_service.py

docs: $(VENV)/all.stamp  ## The site, in site/; a warning is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

wheels: $(VENV)/all.stamp  ## Build the wheel of every distribution into dist/, and look into them.
	$(BIN)/python tools/release.py wheels
	$(BIN)/python tools/release.py check

try-wheels: wheels  ## Install them into a fresh environment of every Python there is, and run an example.
	$(BIN)/python tools/release.py install

real-servers: | $(BIN)/python  ## vLLM and SkyRL's server in .venv-vllm and .venv-skyrl, 6 GB: slow tests start those that are there.
	$(BIN)/python tools/real_servers.py vllm skyrl

debian-packages: PACKAGES = $(DEBIAN_PACKAGES)
browser-packages: PACKAGES = $(BROWSER_PACKAGES)
debian-packages browser-packages:  ## What tests need of the system, where root may install it.
	@if dpkg -s $(PACKAGES) >/dev/null 2>&1; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq $(PACKAGES) || \
		echo "$(PACKAGES): could not be installed; the tests that need them skip"; \
	else echo "$(PACKAGES): not installed, as that takes root and apt-get; the tests that need them skip"; fi

lint: $(VENV)/all.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) $(VENV)-vllm $(VENV)-skyrl build dist site .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/install.stamp: $(SOURCES) | $(BIN)/python
	$(PIP) $(DISTRIBUTIONS)
	touch $@

$(VENV)/demo.stamp: $(SOURCES) | $(BIN)/python
	$(PIP) $(DEMO_DISTRIBUTIONS)
	touch $@ $(VENV)/install.stamp

$(VENV)/all.stamp: $(SOURCES) | $(BIN)/python
	$(PIP) $(ALL_DISTRIBUTIONS)
	$(PIP) --editable tasks/reasoning[gym] || \
		echo "sia-reasoning[gym] could not be installed (a part of it takes a C compiler); the tests that need it skip"
	$(PIP) --editable plugins/litellm[llama-cpp] || \
		echo "sia-litellm[llama-cpp] could not be installed (there may be no wheel for this machine); the tests that need it skip"
	touch $@ $(VENV)/demo.stamp $(VENV)/install.stamp
