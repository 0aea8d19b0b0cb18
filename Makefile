# Two commands do everything from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# One thread per pytest worker: two workers that each start two OpenMP threads wait on one another.
TEST_ENV := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

.PHONY: help setup demo test test-slow test-oldest torture bench notebooks notebooks-check docs pictures lint format clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# The stamp is newer than what it was made from, so setup runs again only when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

setup: $(VENV)/.installed  ## Make a virtual environment and install everything into it

demo: setup  ## Build the synthetic world, train, evaluate, locate; the result is demo/report.html
	HF_HUB_OFFLINE=1 $(BIN)/python training/demo.py --out demo

test: setup  ## Run the tests (under 6 minutes on 2 cores)
	$(TEST_ENV) $(BIN)/python -m pytest -n 2

test-slow: setup  ## Run the long tests too: training runs, resume after kill, the figures
	$(TEST_ENV) $(BIN)/python -m pytest -m "not gpu and not network" --ignore tests/torture

torture: setup  ## Kill, fill, damage and fuzz whatever writes or reads (a quarter of an hour; TORTURE_ROUNDS=4: an hour)
	$(TEST_ENV) $(BIN)/python -m pytest tests/torture tests/training/test_kill.py -m slow -n 0

test-oldest: pyproject.toml  ## Run the tests with the lower bounds of pyproject.toml, in an environment of their own
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python .ci/lower_bounds.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet -c $(OLDEST)/constraints.txt torch
	$(OLDEST)/bin/python -m pip install --quiet -c $(OLDEST)/constraints.txt -e '.[dev]'
	$(TEST_ENV) $(OLDEST)/bin/python -m pytest -n 2

bench: setup  ## Measure everything beside its alternatives: benchmarks/results/bench.md (20 minutes on 2 quiet cores)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/run.py

notebooks: setup  ## Execute the notebooks on the synthetic world and write their outputs
	$(BIN)/python notebooks/run.py

notebooks-check: setup  ## Execute the notebooks from nothing, two at a time; changes nothing
	$(BIN)/python notebooks/run.py --check

docs: setup  ## Build the pages and the reference: docs/_build/index.html
	rm -rf docs/generated
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

pictures: setup  ## Draw the picture of README.md again
	$(BIN)/gengeo figure pairs 'world-urban num_pairs=4' 'world-rural num_pairs=4' 'world-offcenter num_pairs=4' --count 1 --out docs/images/world.png

lint: setup  ## Check style and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment and what the demo wrote
	rm -rf $(VENV) $(OLDEST) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
