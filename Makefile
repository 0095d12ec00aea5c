# `make demo` and `make test` are the two set-up commands of the README; each makes the environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow gpu check format bench zoo clean

demo: $(READY)
	$(BIN)/evovlm demo

# Two processes of one thread each: most tests are Python and small tensors, which gain nothing from threads.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

slow: $(READY)
	$(BIN)/pytest -m "slow and not gpu"

gpu: $(READY)
	$(BIN)/pytest -m gpu

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY)
	$(BIN)/python benchmarks/demo_seeds.py
	$(BIN)/python benchmarks/merge_speed.py

zoo: $(READY)
	$(BIN)/evovlm zoo build

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist build *.egg-info
