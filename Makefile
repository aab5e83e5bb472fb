# Two commands do everything: `make demo` and `make test`. Both set up .venv first, from PyPI alone.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := .demo

export OMP_NUM_THREADS ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count())")

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench wheel-check clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/ready ## prepare, train, evaluate and age a photograph: small, on a CPU, in minutes
	@rm -rf $(DEMO) && mkdir -p $(DEMO)/photos
	@$(BIN)/python -c "from skimage import data, io; io.imsave('$(DEMO)/photos/astronaut.png', data.astronaut())"
	$(BIN)/sam-prepare input=$(DEMO)/photos output=$(DEMO)/faces
	$(BIN)/sam-train +experiment=smoke data=folder data.train=$(DEMO)/faces data.val=$(DEMO)/faces output=$(DEMO)/run
	$(BIN)/sam-eval checkpoint=$(DEMO)/run/checkpoints/last.ckpt output=$(DEMO)/scores
	$(BIN)/sam-infer checkpoint=$(DEMO)/run/checkpoints/last.ckpt input=$(DEMO)/photos output=$(DEMO)/aged
	@echo "The sheet: $(DEMO)/aged/astronaut_sheet.png   (made-up weights: it runs, it does not age)"

test: $(VENV)/ready ## the tests: CPU, no network, minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-slow: $(VENV)/ready ## the full-size tests: the authors' networks, several GB of memory
	$(BIN)/python -m pytest -m "slow and not gpu"

lint: $(VENV)/ready ## ruff
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check src tests benchmarks tools

bench: $(VENV)/ready ## time the full-size model on this machine
	$(BIN)/python -m benchmarks.inference_cpu

wheel-check: $(VENV)/ready ## build the wheel and use it from a fresh environment
	$(BIN)/python tools/check_wheel.py

clean: ## remove what make made
	rm -rf $(VENV) $(DEMO) dist build
