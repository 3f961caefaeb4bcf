# Every target sets up what it needs: a virtual environment in .venv and the pinned dependencies in it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-long test-fast check format pictures up down status clean

setup: $(STAMP)

# torch first: its pin decides between the CPU and the CUDA build that other packages then find installed.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed; set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/python -m jobs.demo

# In the order of the files: the long ones, of tests/integration, come first and no core waits for one at the end.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25 -m "not long"

test-long: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long tests/integration

test-fast: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not stack and not slow and not gpu" tests/unit

# actionlint comes from GitHub (the extra "actions"); where it is missing, the schema alone checks the workflow.
check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/codespell .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	if [ -x $(BIN)/actionlint ]; then $(BIN)/actionlint; else echo "actionlint is not installed: skipped"; fi
	$(BIN)/python -m pytest -q -m "not slow" tests/unit/repository

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pictures: setup
	$(BIN)/python -m docs.pictures

up down status: setup
	$(BIN)/python -m infra.local $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
