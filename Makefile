# Two commands do everything: `make demo` and `make test`. Both set up .venv first, from PyPI alone.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := .demo
BENCH  := outputs/bench

export OMP_NUM_THREADS ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count())")

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench tour wheel-check clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]"  # Python compiles what is imported when it is
	@touch $@

# Threads that wait asleep: awake, they make a step four times as long where something else wants a core, too.
demo tour: export OMP_WAIT_POLICY ?= PASSIVE

demo: $(VENV)/ready ## age, score and train on what comes with the package: no downloads, a CPU, minutes
	@rm -rf $(DEMO)
	$(BIN)/sam-infer input=lifespan output=$(DEMO)/aged 'target_ages=[0,20,40,60,80,100]'
	@echo "The sheet: $(DEMO)/aged/sheet.png"
	$(BIN)/sam-eval checkpoint=lifespan 'source_ages=[30]' 'target_ages=[0,20,50,80,100]' output=$(DEMO)/scores
	$(BIN)/sam-train '+experiment=[lifespan_aging,demo]' output=$(DEMO)/run
	@echo "The sheet: $(DEMO)/aged/sheet.png   The scores: $(DEMO)/scores   What 60 steps teach: $(DEMO)/run/panels"

# Two at a time, of one thread each; worksteal keeps a file's tests, and what they share, with one process.
test test-slow: export OMP_NUM_THREADS := 1
test test-slow: PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(VENV)/ready ## the tests: CPU, no network, minutes; AND=authors: and full-size ones with the authors' numbers
	$(PYTEST) -m "not gpu and (not slow$(AND:%= or %))"

test-slow: $(VENV)/ready ## the full-size tests and long runs, several GB of memory
	$(PYTEST) -m "slow and not gpu"

lint: $(VENV)/ready ## ruff
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check src tests benchmarks tools

bench: $(VENV)/ready ## time the full-size model on this machine; sam-bench lists what else can be measured
	@mkdir -p $(BENCH)
	@parts=inference; step="--batch 16 --fast"; \
	$(BIN)/python -c "import torch; exit(not torch.cuda.is_available())" && parts="step generator inference peaks"; \
	for part in $$parts; do \
		options=; if [ $$part = step ]; then options=$$step; fi; \
		echo "sam-bench $$part $$options > $(BENCH)/$$part.json"; \
		$(BIN)/sam-bench $$part $$options > $(BENCH)/$$part.json || exit 1; \
	done

tour: $(VENV)/ready ## run notebooks/tour.ipynb and keep its outputs
	$(BIN)/python tools/run_notebook.py

wheel-check: $(VENV)/ready ## build the wheel and use it from a fresh environment
	$(BIN)/python tools/check_wheel.py

clean: ## remove what make made
	rm -rf $(VENV) $(DEMO) dist build
