# make demo: see it work. make test: run the tests. Both make .venv first and are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test check audit clean

help:
	@echo "make demo   stain a synthetic slide for ER and write demo/ER.png"
	@echo "make test   run the tests"
	@echo "make check  format, lint and type checks"
	@echo "make audit  look the installed packages up among known vulnerabilities (needs the network)"
	@echo "make clean  remove .venv, demo and caches"

$(BIN)/python:
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit("wsistain needs Python 3.11 or newer, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)

# torch first: the pinned build, before any other package can ask for the newest one
$(VENV)/.torch: $(BIN)/python constraints.txt
	@echo "Installing torch (see constraints.txt)"
	@$(PIP) torch
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	@echo "Installing wsistain"
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@echo "Installing wsistain with everything that the tests need"
	@$(PIP) -e '.[train,batch,dev]'
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	@echo "Making a synthetic slide in demo/"
	@$(BIN)/wsistain phantom slide demo --size 3072 --marker ER --seed 7
	@echo "Staining it for ER"
	@$(BIN)/wsistain run demo/he_a.tiff --marker ER --output demo --overwrite
	@$(BIN)/python scripts/demo_picture.py demo
	@echo "Look at demo/ER.png: H&E, virtual ER, and the truth that only synthetic tissue has"

test: $(VENV)/.dev
	@echo "Running the tests"
	@$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check wsistain tests benchmarks
	$(BIN)/ruff check wsistain tests benchmarks
	$(BIN)/mypy

audit: $(VENV)/.dev
	@$(PIP) --upgrade pip pip-audit
	$(BIN)/pip-audit --skip-editable

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .mypy_cache
