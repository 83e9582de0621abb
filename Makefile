# demo, test, check, bench: each makes .venv first when it has to. Variables are explained in CONTRIBUTING.md.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
QUESTION ?= --sample
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help demo docs test test-page test-slow test-models test-thorough test-wheel test-oldest check format dist bench \
  bench-gpu ablate clean

help:
	@echo "make demo       localise an event in a bundled clip; writes timetok-demo.png"
	@echo "make test       the fast tests"
	@echo "make test-page  the page of timetok demo in a headless Chromium"
	@echo "make test-slow  the slow tests, and those that need a GPU"
	@echo "make test-models  the adapter on every causal LM of the installed transformers (minutes)"
	@echo "make test-thorough  the property tests, a million examples in all (about an hour)"
	@echo "make check      ruff, mypy --strict, import-linter"
	@echo "make dist       wheel and sdist in dist/, and twine's look at them"
	@echo "make test-wheel, test-oldest  the fast tests on the wheel alone; on the oldest versions pyproject.toml allows"
	@echo "make format     let ruff rewrite the code"
	@echo "make docs       the pages and the reference as a site, in docs/_build/html"
	@echo "make bench      every number of the README and the docs; trains what it compares (hours, resumes)"
	@echo "make ablate     variants of the shapes recipe under one budget: docs/experiments (hours, resumes)"
	@echo "make bench-gpu  pooling, and LITA stage by stage, on a CUDA device (minutes)"

demo: $(READY)
	@$(BIN)/timetok localize $(QUESTION) --plot timetok-demo.png

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not slow and not gpu and not browser" $(ARGS)

test-page: $(READY)
	@$(BIN)/python -c 'import importlib.util as u; raise SystemExit(not (u.find_spec("gradio") and u.find_spec("playwright")))' \
	  || $(BIN)/python -m pip install --disable-pip-version-check -q -e '.[demo]' playwright
	@$(BIN)/python -m pytest -q tests/demo $(ARGS)

test-slow: $(READY)
	@$(BIN)/python -m pytest -q -m "slow or gpu" $(ARGS)

test-models: $(READY)
	@$(BIN)/python -m pytest -q tests/adapter/test_every_causal_lm.py $(ARGS)

test-thorough: $(READY)
	@$(BIN)/python -m pytest -q -m "hypothesis and not gpu" --hypothesis-profile=thorough $(ARGS)

test-wheel: dist
	@PYTHON=$(PYTHON) WORKERS=$(WORKERS) .ci/test-wheel $(ARGS)

test-oldest:
	@PYTHON=$(PYTHON) WORKERS=$(WORKERS) .ci/test-oldest $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.docs
	@$(BIN)/python -m sphinx -EW --keep-going -n -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.venv/.docs: $(READY)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[docs]'
	@touch $@

dist: $(READY)
	rm -rf dist
	@$(BIN)/python -m build --no-isolation
	@$(BIN)/twine check --strict dist/*

bench: $(READY)
	@$(BIN)/python benchmarks/tokens.py
	@$(BIN)/python benchmarks/adapter.py
	@$(BIN)/python benchmarks/pooling.py
	@THP_MEM_ALLOC_ENABLE=1 $(BIN)/python benchmarks/pooling.py --only-main --allocator "huge pages"
	@$(BIN)/python benchmarks/plot.py
	@$(BIN)/python benchmarks/video.py
	@$(BIN)/python benchmarks/lita.py
	@$(BIN)/python benchmarks/recipe.py
	@$(BIN)/python benchmarks/metrics.py
	@$(BIN)/python benchmarks/long.py
	@$(BIN)/python benchmarks/shapes.py $(ARGS)
	@$(BIN)/python benchmarks/posterior.py

bench-gpu: $(READY)
	@$(BIN)/python benchmarks/pooling_gpu.py
	@$(BIN)/python benchmarks/lita.py
	@$(BIN)/python benchmarks/plot.py

ablate: $(READY)
	@$(BIN)/python benchmarks/ablate.py $(ARGS)

clean:
	rm -rf .venv .wheel .oldest .mypy_cache .ruff_cache .pytest_cache .hypothesis dist docs/_build timetok-demo.png

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "timetok needs Python >= 3.11, but '$(PYTHON)' is $$( ($(PYTHON) -V 2>&1 || true) | head -n 1)." >&2; \
	  echo "Name a newer one:  make PYTHON=python3.12 demo" >&2; exit 1; }
	@echo "Setting up .venv (the first time: about 6 GB on disk, a few minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -u -m pip install --disable-pip-version-check --progress-bar off -e '.[dev]' 2>&1 \
	  | tee .venv/install.log | while read -r verb what; do case $$verb in \
	      Collecting) printf . ;; \
	      Installing) [[ $$what != collected* ]] || printf '\n  downloaded, now unpacking ...' ;; \
	    esac; done \
	  || { printf '\n'; tail -n 30 .venv/install.log >&2; \
	       echo "Installing failed; the whole log is in .venv/install.log" >&2; exit 1; }
	@printf ' done.\n'
	@touch $@
