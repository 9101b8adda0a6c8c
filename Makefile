# Everything works from a bare clone: the first target that needs it makes .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := build/demo.wav
# The Pythons for test-oldest and test-newest, and the address of PyTorch's wheels without "/cpu".
OLDEST_PYTHON ?= python3.10
NEWEST_PYTHON ?= python3.13
TORCH_INDEX ?=
TESTS ?=
# The environment whose packages `sbom` lists: for a release, one with nothing but this package.
SBOM_VENV ?= $(VENV)
# Warnings about other packages, and about sockets that their old releases do not close.
OTHER_VERSIONS := $(addprefix -W ignore::,DeprecationWarning FutureWarning ResourceWarning \
	pytest.PytestUnraisableExceptionWarning)
FROM_TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)/cpu)
BENCHMARKS = $(notdir $(basename $(wildcard tests/benchmarks/bench_*.py)))

.PHONY: help setup demo check test test-all test-online test-oldest test-newest build sbom bench picture samples freeze clean
.DEFAULT_GOAL := help

help:  ## List all targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-11s %s\n", $$1, $$2 }'

setup: $(STAMP)  ## Make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## Render the example song to build/demo.wav
	@mkdir -p $(dir $(DEMO))
	$(BIN)/spectro-render docs/demo.mid -o $(DEMO)

check: $(STAMP)  ## Lint, check the formatting, the types and known advisories
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.support.audit

test: $(STAMP)  ## Run the tests
	$(BIN)/pytest -q

test-all: $(STAMP)  ## Run all tests, also the slow ones
	$(BIN)/pytest -q -m ''

test-online: $(STAMP)  ## Fetch, verify and check the published model, if SPECTRO_RENDER_ONLINE is 1
	$(BIN)/pytest -q -m '' tests/test_online.py

test-oldest: .venv-oldest/.installed  ## Run the tests on the oldest Python and the oldest packages allowed
	.venv-oldest/bin/python -m pytest -q $(OTHER_VERSIONS) $(TESTS)

.venv-oldest/.installed: pyproject.toml tests/support/lower_bounds.py
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m tests.support.lower_bounds > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install -q -c .venv-oldest/constraints.txt $(FROM_TORCH) torch
	.venv-oldest/bin/python -m pip install -q -c .venv-oldest/constraints.txt -e '.[dev]'
	@touch $@

test-newest: .venv-newest/.installed  ## Run the tests on the newest Python and the newest packages
	.venv-newest/bin/python -m pytest -q $(OTHER_VERSIONS) $(TESTS)

.venv-newest/.installed: pyproject.toml
	$(NEWEST_PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install -q $(FROM_TORCH) torch
	.venv-newest/bin/python -m pip install -q -e '.[dev]'
	@touch $@

build: $(STAMP)  ## Make the wheel and the source archive in dist/
	$(BIN)/python -m hatchling build

sbom: $(STAMP)  ## List the packages in SBOM_VENV in sbom/spectro-render.cdx.json (CycloneDX)
	@mkdir -p sbom
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
		--output-reproducible --output-format JSON -o sbom/spectro-render.cdx.json $(SBOM_VENV)

bench: $(STAMP)  ## Measure speed and memory
	@for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m tests.benchmarks.$$name || exit 1; \
	done

picture: $(STAMP)  ## Render the example song and draw docs/images/demo.png
	$(BIN)/python docs/draw_demo.py

samples: $(STAMP)  ## Render eight clips beside the soundfont's sound in docs/samples.html
	$(BIN)/python docs/make_samples.py

freeze: $(STAMP)  ## Store what the bundled model makes of twelve songs in tests/data/frozen.npz
	$(BIN)/python -m tests.support.frozen

clean:  ## Remove caches and build products (environments stay)
	rm -rf build dist sbom .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find spectro_render tests -name __pycache__ -prune -exec rm -rf {} +
