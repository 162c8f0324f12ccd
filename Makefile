# make demo | test | test-slow | lint | clean
# Another interpreter: make test PYTHON=python3.12   (its environment is then .venv-python3.12)
PYTHON  ?= python3
VENV    ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
CONFIG  ?= configs/maskcluster_vit.py
WORKDIR ?= runs/demo
RUN      = $(VENV)/bin/python -m
# Most of a test is compilation, which uses one core: a process for each core, and a file stays in one process.
PYTEST   = $(RUN) pytest --durations=10 --numprocesses=auto --maxprocesses=8 --dist=loadfile

.PHONY: help demo test test-slow lint clean

help:
	@sed -n '1,2s/^# //p' Makefile

demo: $(VENV)/.installed
	$(RUN) gssl_jax.main --config=$(CONFIG) --workdir=$(WORKDIR)

test: $(VENV)/.installed-test
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-test
	$(PYTEST) -m slow || test $$? -eq 5  # 5: no test carries the mark

lint: $(VENV)/.installed-test
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/shellcheck launch/*.sh .ci/run

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The stamps are younger than the files that name the requirements, so pip runs again only when those change.
$(VENV)/.installed: requirements.txt pyproject.toml | $(VENV)/bin/pip
	$(RUN) pip --disable-pip-version-check install --editable .
	@touch $@

$(VENV)/.installed-test: requirements.txt pyproject.toml | $(VENV)/bin/pip
	$(RUN) pip --disable-pip-version-check install --editable '.[test]'
	@touch $(VENV)/.installed $@

# pip is the last thing that venv writes, so an interrupted creation is done again.
$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "error: $(PYTHON) is\
	 not a Python from 3.11 up ($$($(PYTHON) --version 2>&1 | head -n 1)); name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) cannot make virtual environments:\
	 on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
