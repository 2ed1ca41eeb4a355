# The commands that people and CI run. Each target sets up what it needs.
PYTHON ?= python3
BASE ?= tiny
BIN := .venv/bin
WORKERS ?= 2

# If compiled modules were not written, every pytest that a test starts would compile half of
# hypothesis again.
unexport PYTHONDONTWRITEBYTECODE

FOLDERS ?= 20000
SAMPLE ?= 0
SEED ?= 0
# What `make bench` scores: an adapter of smollm2, which is trained if it does not exist, on ITEMS or,
# by default, on the items of the bundled suite.
ADAPTER ?= bench/adapter
ITEMS ?=

.PHONY: demo test test-fast test-gpu thorough lint docs schema fuzz attack fixtures sample-report mutants simulate bench compat release clean browser help
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.venv/ready: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

demo: .venv/ready ## train an adapter, gate it, gate a damaged copy (BASE=tiny or smollm2)
	$(BIN)/phi3-lora-qa demo --base $(BASE)

# The tests of the report open it in Chromium. This target installs Chromium if run as root on Debian.
# Elsewhere install it by hand; otherwise those tests are reported as skipped.
browser:
	@command -v chromium >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	else echo "no chromium: the browser tests will be skipped"; fi

test: .venv/ready browser lint ## lint, type checks and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q

test-gpu: .venv/ready ## the tests that need a GPU, with its speed and peak memory; an error without one
	$(BIN)/python -m pytest -q -rs -s -m cuda tests/cuda

test-fast: .venv/ready ## only the fast tests, for use while you work
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q -m "not slow"

thorough: .venv/ready ## test layers and bounds on 1,000 random cases each; run it overnight
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q --phi3-layers --phi3-only \
		--hypothesis-profile=thorough
	LORA_CASES=1000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q tests/lora

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/ready schema ## write docs/rules from the linter's rules, and the record's JSON Schema
	$(BIN)/python docs/make_rules.py

schema: .venv/ready ## write phi3_lora_qa/record.schema.json from the dataclasses of the record
	$(BIN)/python -m phi3_lora_qa.record_schema

fixtures: .venv/ready ## regenerate the tiny base and all bundled data
	$(BIN)/python fixtures/make_tiny.py
	$(BIN)/python fixtures/make_smollm2_data.py
	$(BIN)/python fixtures/make_general.py

sample-report: .venv/ready ## gate the bundled adapter and save its report as the sample
	$(BIN)/python -m pytest -q --phi3-only --phi3-adapter=phi3_lora_qa/bundled/tiny/adapter \
		--phi3-base tiny --phi3-report reports/sample

simulate: .venv/ready ## count how often the gate errs on 1,000 random suites of each kind
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/simulate.py

.venv-lm-eval/ready:
	$(PYTHON) -m venv .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet --disable-pip-version-check "torch==2.13.0" \
		"lm-eval==0.4.13" "transformers==5.23.0" "peft==0.21.2" accelerate
	touch $@

$(ADAPTER):
	$(BIN)/phi3-lora-qa base fetch smollm2
	$(BIN)/phi3-lora-qa train phi3_lora_qa/bundled/smollm2/train.toml --set output.dir=$(abspath $(ADAPTER))

bench: .venv/ready .venv-lm-eval/ready $(ADAPTER) ## time starting, linting, scoring (against lm-eval) and gating (ITEMS, ADAPTER)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/lint.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/scoring.py --adapter $(ADAPTER) $(if $(ITEMS),--items $(ITEMS)) \
		--lm-eval .venv-lm-eval/bin/python
	$(BIN)/python benchmarks/gates.py --adapter $(ADAPTER) $(if $(ITEMS),--suite $(ITEMS))

fuzz: .venv/ready ## lint 20,000 random folders (FOLDERS=N) and report violations of what the linter guarantees
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --folders $(FOLDERS) --workers $(WORKERS)

# First all combinations of hostile pytest runs, then the tests against hostile folders, tokenizers,
# templates, servers and paths, and against machines short of resources.
attack: .venv/ready ## run every known attack on the gate, in all combinations
	ATTACKS=0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -q tests/attack tests/pytest_plugin \
		tests/adapter/rules/test_loader_files.py tests/adapter/tokenizer \
		tests/adapter/chat_template tests/adapter/scenarios \
		tests/scoring/test_deadline.py \
		tests/scoring/test_secret_redaction.py tests/cli/test_path_types.py tests/cli/scenarios/test_short_machine.py \
		tests/gate/test_short_machine.py tests/report/test_report_folder.py

mutants: .venv/ready ## mutate lora and properties and count undetected mutants (SAMPLE=N: a sample of N of each)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutants.py lora properties \
		--sample $(SAMPLE) --seed $(SEED) --workers $(WORKERS)

compat: .venv/ready ## run the package with the lowest and newest libraries on Python 3.11 to 3.13
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compat]'
	$(BIN)/python benchmarks/compat.py

release: .venv/ready ## build the archives in dist/, check them, and try the wheel in a clean environment
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[release]'
	$(BIN)/python benchmarks/release.py

clean: ## remove everything that the targets made
	rm -rf .compat-* .venv .venv-lm-eval bench demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis mutants.log
