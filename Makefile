# Two commands do everything from a fresh clone: `make demo` and `make test`.
# Any Python from 3.11 on; the first of these that there is. PYTHON=... chooses another.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3.14 python3 python,\
	$(shell $(name) -c 'import sys, venv; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# One thread per pytest worker: two workers that each start two OpenMP threads wait on one another.
TEST_ENV := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

.PHONY: help setup demo test test-slow test-changed test-oldest torture mutants wheel bench bench-10m notebooks notebooks-check docs \
	pictures lint format clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# A stamp is newer than what it was made from, so an installation runs again only when the requirements change.
define install
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 with venv was found: make PYTHON=/path/to/python ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@
endef

$(VENV)/.installed: EXTRAS = dev
$(VENV)/.installed: pyproject.toml constraints.txt
	$(install)
	touch $(VENV)/.installed-demo

# What the demo needs: a part of the above.
$(VENV)/.installed-demo: EXTRAS = geo,world,report
$(VENV)/.installed-demo: pyproject.toml constraints.txt
	$(install)

setup: $(VENV)/.installed  ## Make a virtual environment and install everything into it

demo: $(VENV)/.installed-demo  ## Build the synthetic world, train, evaluate, locate; the result is demo/report.html
	HF_HUB_OFFLINE=1 $(BIN)/python training/demo.py --out demo

test: setup  ## Run the tests (under 6 minutes on 2 cores)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2

test-slow: setup  ## Run the long tests too: training runs, resume after kill, the figures
	$(TEST_ENV) $(BIN)/python -m pytest -m "not gpu and not network" --ignore tests/torture

test-changed: setup  ## Run the slow tests of packages that changed since CHANGED_SINCE=commit (default: what is not in origin/main)
	$(TEST_ENV) $(BIN)/python .ci/changed_tests.py

wheel: setup  ## Build wheel and sdist, compare them with git, use the wheel in a fresh environment
	$(BIN)/python .ci/wheel_check.py

torture: setup  ## Kill, fill, damage and fuzz whatever writes or reads (a quarter of an hour; TORTURE_ROUNDS=4: an hour)
	$(TEST_ENV) $(BIN)/python -m pytest tests/torture tests/training/test_kill.py -m slow -n 0

SEED ?= 0
mutants: setup  ## Change 150 single points of the core, one at a time, and list those that no test notices (SEED=7: others)
	$(BIN)/python benchmarks/mutants.py --seed $(SEED)

test-oldest: pyproject.toml  ## Run the tests with the lower bounds of pyproject.toml, in an environment of their own
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python .ci/lower_bounds.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet -c $(OLDEST)/constraints.txt torch
	$(OLDEST)/bin/python -m pip install --quiet -c $(OLDEST)/constraints.txt -e '.[dev]'
	$(TEST_ENV) $(OLDEST)/bin/python -m pytest -n 2

bench: setup  ## Measure everything beside its alternatives: benchmarks/results/bench.md (20 minutes on 2 quiet cores)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/run.py

bench-10m: setup  ## Measure an index of ten million tiles and edits of a million (8 GB of disk, 30 minutes on 2 quiet cores)
	$(BIN)/python benchmarks/search_ten_million.py --out benchmarks/results/bench_10m.json

notebooks: setup  ## Execute the notebooks on the synthetic world and write their outputs
	$(BIN)/python notebooks/run.py

notebooks-check: setup  ## Execute the notebooks from nothing, two at a time; changes nothing
	$(BIN)/python notebooks/run.py --check

docs: setup  ## Build the pages and the reference: docs/_build/index.html
	rm -rf docs/generated
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

pictures: setup  ## Draw the picture of README.md again
	$(BIN)/gengeo figure pairs 'world-urban num_pairs=4' 'world-rural num_pairs=4' 'world-offcenter num_pairs=4' --count 1 --out docs/images/world.png

lint: setup  ## Check style, types, workflows and the Dockerfile; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/lint_settings.py

format: setup  ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and what the demo wrote
	rm -rf $(VENV) $(OLDEST) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
