# Everything works from a bare clone: the first target that needs it makes .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := build/demo.wav
BENCHMARKS = $(notdir $(basename $(wildcard tests/benchmarks/bench_*.py)))

.PHONY: help setup demo check test test-all bench picture clean
.DEFAULT_GOAL := help

help:  ## Say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-10s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## Make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Render the example MIDI, and say where, how long and how fast
	@mkdir -p $(dir $(DEMO))
	$(BIN)/spectro-render spectro_render/assets/demo.mid -o $(DEMO)

check: $(STAMP)  ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP)  ## Run the tests
	$(BIN)/pytest -q

test-all: $(STAMP)  ## Run the slow tests too
	$(BIN)/pytest -q -m ''

bench: $(STAMP)  ## Measure
	@for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m tests.benchmarks.$$name || exit 1; \
	done

picture: $(STAMP)  ## Render the example MIDI and draw docs/images/demo.png
	$(BIN)/python docs/draw_demo.py

clean:  ## Remove caches and build products (.venv stays)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find spectro_render tests -name __pycache__ -prune -exec rm -rf {} +
