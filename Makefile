# Every target builds its own environment first: a fresh checkout needs python3 (3.11 or newer) and make, no more.
# Another package index, or other pip options:  make PIP_ARGS="--index-url ..." test

PYTHON   ?= python3
PIP_ARGS ?=
VENV     := .venv
STAMP    := $(VENV)/.installed

.PHONY: demo test check venv clean

demo: $(STAMP)
	$(VENV)/bin/secateur demo

# One thread a process: two OpenMP pools on the same cores slow each other down many times over.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

check: $(STAMP)
	scripts/check

venv: $(STAMP)

# The stamp is written last, so an interrupted install is taken up again by the next call.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $@

# Leaves runs/ alone: what a search found is not a by-product.
clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
