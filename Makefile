# Every target makes its own virtual environment first, so that a fresh machine needs
# nothing but make and Python 3.11 or newer: `make test`, or `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
OPTIONS ?=
JOBS ?= auto
CUDA ?= cuda12

.PHONY: help demo test test-gpu lint types bench bench-gpu notebooks golden clean
.DEFAULT_GOAL := help

help: ## list these tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 11

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
	$(RUN) -m pytest -n $(JOBS) $(OPTIONS)

test-gpu: $(VENV)/.installed-test $(VENV)/.installed-$(CUDA) ## run what needs an NVIDIA GPU; CUDA=cuda13 for new drivers
	NUMBA_ENABLE_CUDASIM=0 $(RUN) -m pytest -rs -k "cuda or gpu" \
		tests/backends tests/cuda tests/gpu $(OPTIONS)

lint: $(VENV)/.installed-dev ## check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(VENV)/.installed-dev ## check types
	$(RUN) -m mypy --strict jitseq

bench: $(VENV)/.installed-bench ## time the zoo beside its peers; OPTIONS="--quick" or "--train"
	$(RUN) -m jitseq bench $(OPTIONS)

bench-gpu: $(VENV)/.installed-torch $(VENV)/.installed-$(CUDA) ## time the zoo on a GPU beside PyTorch; OPTIONS="--train" or "--profile"
	NUMBA_ENABLE_CUDASIM=0 $(RUN) -m jitseq bench --backend cuda $(OPTIONS)

notebooks: $(VENV)/.installed-notebook ## execute the notebooks and write their outputs
	$(RUN) notebooks/execute.py

golden: $(VENV)/.installed-test ## write the golden texts again; review with git diff
	$(RUN) -m pytest tests/golden tests/autodiff tests/test_docs.py --update-golden

clean: ## remove the virtual environment and everything that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -rf .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
