# Everything a newcomer needs: `make demo`, `make test`. Only Python 3.11 or 3.12, make and a C compiler are assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test lint docs-check lock clean

help:
	@echo "make demo   set up, then the whole way on generated people, and a page about it"
	@echo "make test   set up, check the style, run the tests"
	@echo "make setup  only the virtual environment in $(VENV)"
	@echo "make lint   style and types alone;  make docs-check: run every command that README and docs show"
	@echo "make lock   renew requirements.lock;  make clean: remove $(VENV) and caches"

setup: $(VENV)/ready

# uv installs the locked versions in seconds where pip takes minutes; the lock's hashes are checked.
$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "Crosstalk needs Python 3.11 or 3.12; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "setting up $(VENV) (about 1 minute; 8 GB with the CUDA libraries that PyTorch brings)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

demo: setup
	@$(BIN)/crosstalk demo

test: setup lint
	@$(BIN)/python -m pytest

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs-check: setup
	@$(BIN)/python -m pytest tests/docs_check.py

lock:
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra build --generate-hashes \
		--no-emit-index-url --no-header --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build *.egg-info .ruff_cache .mypy_cache
