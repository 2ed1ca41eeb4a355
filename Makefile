# Everything that a person or CI runs here. Each target sets up what it needs.
PYTHON ?= python3
BASE ?= tiny
BIN := .venv/bin
WORKERS ?= 2

# Without compiled modules every pytest that a test starts compiles half of hypothesis anew.
unexport PYTHONDONTWRITEBYTECODE

FOLDERS ?= 20000
SAMPLE ?= 0
SEED ?= 0
# What `make bench` scores: an adapter of smollm2, trained if it is not there, and items; without
# them those of the bundled suite.
ADAPTER ?= bench/adapter
ITEMS ?=

.PHONY: demo test test-fast thorough lint docs fuzz attack fixtures sample-report mutants simulate bench compat clean browser help
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.venv/ready: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: .venv/ready ## train an adapter, gate it, gate a damaged copy (BASE=tiny or smollm2)
	$(BIN)/phi3-lora-qa demo --base $(BASE)

# The report's tests open it in Chromium. As root on Debian it is installed; elsewhere install it
# by hand, or those tests are reported as skipped.
browser:
	@command -v chromium >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	else echo "no chromium: the browser tests will be skipped"; fi

test: .venv/ready browser lint ## lint, types, all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q

test-fast: .venv/ready ## the tests that take no time, while you work
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q -m "not slow"

thorough: .venv/ready ## layers and bounds on 1,000 drawn cases each, for the night
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q --phi3-layers --phi3-only \
		--hypothesis-profile=thorough
	LORA_CASES=1000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q tests/lora

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/ready ## write docs/rules from the rules
	$(BIN)/python docs/make_rules.py

fixtures: .venv/ready ## make the tiny base and all bundled data again
	$(BIN)/python fixtures/make_tiny.py
	$(BIN)/python fixtures/make_general.py

sample-report: .venv/ready ## gate the bundled adapter and keep its report as the sample
	$(BIN)/python -m pytest -q --phi3-only --phi3-adapter=phi3_lora_qa/bundled/tiny/adapter \
		--phi3-base tiny --phi3-report reports/sample

simulate: .venv/ready ## draw 1,000 suites of each kind, and count how often the gate errs
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/simulate.py

.venv-lm-eval/ready:
	$(PYTHON) -m venv .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet --disable-pip-version-check "torch==2.13.0" \
		"lm-eval==0.4.13" "transformers==5.23.0" "peft==0.21.2" accelerate
	touch $@

$(ADAPTER):
	$(BIN)/phi3-lora-qa base fetch smollm2
	$(BIN)/phi3-lora-qa train phi3_lora_qa/bundled/smollm2/train.toml --set output.dir=$(abspath $(ADAPTER))

bench: .venv/ready .venv-lm-eval/ready $(ADAPTER) ## what it costs to start, lint, score (beside lm-eval) and gate (ITEMS, ADAPTER)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/lint.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/scoring.py --adapter $(ADAPTER) $(if $(ITEMS),--items $(ITEMS)) \
		--lm-eval .venv-lm-eval/bin/python
	$(BIN)/python benchmarks/gates.py --adapter $(ADAPTER) $(if $(ITEMS),--suite $(ITEMS))

fuzz: .venv/ready ## lint 20,000 drawn folders (FOLDERS=N), and report what breaks a promise
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --folders $(FOLDERS) --workers $(WORKERS)

# Hostile runs of pytest, composed; then what a folder, a tokenizer, a template, a server, a path or
# a short machine can do.
attack: .venv/ready ## everything that is known to have been tried against the gate, in all combinations
	ATTACKS=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q tests/attack tests/pytest_plugin \
		tests/adapter/rules/test_loader_files.py tests/adapter/tokenizer \
		tests/adapter/chat_template tests/adapter/scenarios \
		tests/adapter/test_safety.py tests/scoring/test_deadline.py \
		tests/scoring/test_secret_redaction.py tests/cli/test_path_types.py tests/cli/test_short_machine.py \
		tests/gate/test_short_machine.py tests/report/test_report_folder.py

mutants: .venv/ready ## change lora and properties in every way, and count what no test notices (SAMPLE=N draws N of each)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py lora properties \
		--sample $(SAMPLE) --seed $(SEED) --workers $(WORKERS)

compat: .venv/ready ## run the package on the lowest and newest libraries, on Python 3.11 to 3.13
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compat]'
	$(BIN)/python benchmarks/compat.py

clean: ## remove what the targets made
	rm -rf .compat-* .venv .venv-lm-eval bench demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis mutants.log
