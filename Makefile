# Every target sets up what it needs on a machine with Python >= 3.11, and repeats the set-up only when
# pyproject.toml or constraints.txt changed. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "raydfkd needs Python >= 3.11 and found no $(PYTHON): say which with make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v < (3, 11) and sys.exit("raydfkd needs Python >= 3.11, but $(PYTHON) is %d.%d: say which with make PYTHON=/path/to/python3.11" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian and Ubuntu: python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/raydfkd demo $(DEMO_ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture

test: check
	$(BIN)/python -m pytest -q -m "not ray" --numprocesses=auto --dist=worksteal --durations=10 --ignore=tests/architecture tests
	$(BIN)/python -m pytest -q -m ray --durations=10 tests/ray tests/e2e

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
