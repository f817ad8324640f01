# Each target sets up what it needs; any may be run first. Needs Python 3.11 to 3.13 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast coverage lint format bench tuned-layers lock audit sbom pin-images clean

demo: $(STAMP)
	$(BIN)/sortline demo $(ARGS)

# A file's tests run in one process, since they may share fixtures that take seconds. In the order that tests/conftest.py
# gives the files: the slow ones first, so that all processes end at about the same time.
PYTEST := pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
test: $(STAMP)
	$(BIN)/$(PYTEST) $(ARGS)

test-fast: $(STAMP)
	$(BIN)/$(PYTEST) -m "not (training or e2e or bench or slow)" $(ARGS)

# The same tests, and which lines and branches they ran: a table, and htmlcov/index.html with every file.
coverage: $(STAMP)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m $(PYTEST) $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/sortline bench $(ARGS)

# The layers of the default backbone: tuned on rendered frames of many belts, then on the project's bottles. About forty
# minutes on two cores. Another processor rounds differently, and so gives slightly other layers.
TUNED := build/tuned-layers
TUNE := train --name tuned --mode multi --fine-tune top --model-store $(TUNED)/store
tuned-layers: $(STAMP)
	rm -rf $(TUNED)
	$(BIN)/sortline bench render-pairs $(TUNED)/frames --mixed 4000 --seed 5
	$(BIN)/sortline $(TUNE) $(TUNED)/frames --backbone wheel:efficientnet-lite0 --epochs 12 \
	  --save-layers $(TUNED)/rendered.npz
	$(BIN)/sortline $(TUNE) producer/bottles --backbone $(TUNED)/rendered.npz --save-layers $(TUNED)/bottles.npz
	cp $(TUNED)/bottles.npz model_store/backbones/bottles.npz

# The packages come first, from the lock file, checked by digest; then the project itself, which builds with
# the locked setuptools and needs nothing more. `compat` is an editable install as a plain path entry: type checkers
# don't see through setuptools' default, an import hook.
$(STAMP): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "This needs Python 3.11, 3.12 or 3.13, for which the locked TensorFlow has wheels;" \
	    "$(PYTHON) is another version: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "no virtual environment could be made: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	@echo "Installing the locked packages into $(VENV) (TensorFlow among them; about 2 GB, a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock \
	  || { echo "The packages could not be installed, see above. \"No matching distribution\" means that a" \
	    "package has no wheel for this system, or that the package index does not have it."; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --config-settings editable_mode=compat --editable .
	@touch $(STAMP)

# After a change of the dependencies in pyproject.toml: resolves anew, for every platform and Python version.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
  --no-emit-index-url --constraint requirements/constraints.txt pyproject.toml
lock: $(STAMP)
	$(LOCK) --extra dev --output-file requirements/dev.lock
	$(LOCK) --constraint requirements/dev.lock --extra build --output-file requirements/worker.lock
	$(LOCK) --constraint requirements/dev.lock --extra build --extra gpu --output-file requirements/gpu.lock

# Known vulnerabilities of the locked packages. Exits with 3 if that could not be asked, which is not the same as none.
audit: $(STAMP)
	$(BIN)/python requirements/audit.py $(ARGS)

# What is in the images: a bill of materials (CycloneDX) of each lock file that an image installs, the same on each run.
BUILD := build
sbom: $(STAMP)
	@$(BIN)/python requirements/bills.py $(BUILD)

# Writes the digests of the base images beside their tags, if the registries can be reached.
pin-images:
	$(PYTHON) deploy/pin_images.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache htmlcov .coverage .coverage.*
