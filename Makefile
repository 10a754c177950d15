# Every target makes its own virtual environment first, so that a fresh machine needs
# nothing but make and Python 3.11 or newer: `make test`, or `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
OPTIONS ?=

.PHONY: help demo test lint types bench golden clean
.DEFAULT_GOAL := help

help: ## list these tasks
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(RUN) -m pip install --quiet --editable ".[$*]"
	touch $@

.SECONDARY:

demo: $(VENV)/.installed-progress ## train a CNN on handwritten digits, and time it
	$(RUN) -m jitseq demo

test: $(VENV)/.installed-test ## run the tests; OPTIONS="-k conv" selects some
	$(RUN) -m pytest $(OPTIONS)

lint: $(VENV)/.installed-dev ## check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.installed-dev ## check types
	$(RUN) -m mypy --strict jitseq

bench: $(VENV)/.installed-bench ## time the zoo beside its peers; OPTIONS="--quick" or "--train"
	$(RUN) -m jitseq bench $(OPTIONS)

golden: $(VENV)/.installed-test ## write the golden texts again; review with git diff
	$(RUN) -m pytest tests/golden tests/autodiff tests/test_docs.py --update-golden

clean: ## remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -rf .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
