# make check      ruff, mypy and the rules of the source tree
# make test       the same, and every test but the slow ones; its outcome depends neither on chance nor on the machine's speed
# make test-slow  the slow tests (full-size networks, kills of every process, node loss, too little memory, tokens, sweeps,
#                 benchmarks), and the property tests once more on examples of chance; one that fails is kept in .hypothesis
# make demo       the demo
#
# Every target sets up what it needs on a machine with Python >= 3.11, and repeats the set-up only when
# pyproject.toml or constraints.txt changed. Another interpreter: make test PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
DEMO_ARGS ?=
RAY_PROCESSES ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# An editable install brings no bytecode: without any, each of the hundreds of processes that tests start compiles the package.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/python -m pytest -q --dist=worksteal --durations=10

.PHONY: install demo lint check test test-slow clean

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

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(PYTEST) tests/architecture

# Each process of the Ray tests starts a Ray of its own, so there are two of them at most.
test: lint
	PYTHONHASHSEED=0 $(PYTEST) -m "not ray and not slow" --numprocesses=auto tests
	PYTHONHASHSEED=0 $(PYTEST) --dist=loadfile -m "ray and not slow" --numprocesses=$(RAY_PROCESSES) tests/ray tests/e2e

test-slow: $(STAMP)
	RAYDFKD_HYPOTHESIS=free $(PYTEST) -m "(slow or hypothesis) and not ray" --numprocesses=auto tests
	$(PYTEST) --dist=loadfile -m "ray and slow" --numprocesses=$(RAY_PROCESSES) tests/ray tests/e2e

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
