# `make demo` and `make test` do everything on a machine with Python 3.11-3.13 and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# JAX has an environment of its own, so that the other tests see what a user without it has.
JAX    := .venv-jax
# The built wheel too: the package is installed there as a user would, not editable.
WHEEL  := .venv-wheel
# Which tests run, in how many processes and in which order: `make test TESTS=tests/losses WORKERS=4`,
# `make test ORDER=--randomly-seed=3`, or ORDER= for an order of chance.
TESTS   := tests
WORKERS := 2
ORDER   := -p no:randomly
# tests/conftest.py puts the slowest files first.
PYTEST  := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ORDER)
# The TensorFlow wheel that fits: with CUDA on a machine with an NVIDIA GPU, else CPU only.
TF     := $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
# The checksum in the names of stamp files: dependencies are installed again only when it changes.
ASKED  := $(shell { cat setup.cfg; echo $(TF); } | cksum | cut -d' ' -f1)

# Material for MkDocs announces MkDocs 2 at each build; setup.cfg pins versions 9 and 1.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-jax test-wheel wheel lint docs docs-serve lint-and-docs check \
  notebooks clean \
  benchmark benchmark-peers benchmark-neighbors benchmark-scaling \
  benchmark-step benchmark-precision benchmark-sources \
  benchmark-paper benchmark-rbm benchmark-map benchmark-map-size benchmark-serving benchmark-reference \
  benchmark-refine benchmark-fuzz benchmark-robustness benchmark-bulk \
  benchmark-storage benchmark-sample

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(VENV)/.core-$(ASKED) ## a map of digits: a table, map.png, saved_models/digits
	$(BIN)/ptsne demo

test: $(VENV)/.test-$(ASKED) ## everyday tests, a few minutes
	KERAS_BACKEND=tensorflow $(BIN)/python $(PYTEST) -m "not slow" $(TESTS)

test-all: test-jax test-wheel ## all tests: on JAX, then on the built wheel with all that is slow

test-jax: $(JAX)/.test-$(ASKED) ## what runs on KERAS_BACKEND=jax, in an environment of its own
	KERAS_BACKEND=jax $(JAX)/bin/python $(PYTEST) tests/jax_backend tests/networks/test_placement.py

# The tests run outside the tree, or `import ptsne_keras` would find the source.
test-wheel: wheel $(WHEEL)/.test-$(ASKED) ## all tests but JAX's, on the built wheel in an environment of its own
	$(WHEEL)/bin/python -m pip install --quiet --no-deps --force-reinstall dist/ptsne_keras-*.whl
	cd $(WHEEL) && KERAS_BACKEND=tensorflow PTSNE_INSTALLED=1 bin/python $(PYTEST) -c ../pyproject.toml --rootdir .. \
	  $(addprefix ../,$(TESTS))

dist:
	$(MAKE) wheel

wheel: $(VENV)/.dev-$(ASKED) ## dist/ptsne_keras-*.whl
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

lint: $(VENV)/.dev-$(ASKED) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs-$(ASKED) ## the documentation, into site/; a warning is an error
	$(MKDOCS) build --strict

docs-serve: $(VENV)/.docs-$(ASKED) ## the documentation on http://127.0.0.1:8000, rebuilt at each change
	$(MKDOCS) serve --watch README.md --watch ptsne_keras --watch .ci/site.py

# The wheel first, since building it writes to the tree; then two jobs at a time: lint and docs, and
# the environment of the wheel with the tests on JAX; all other tests last.
check: wheel ## every check that CI makes
	$(MAKE) -j2 --output-sync=line test-jax lint-and-docs
	$(MAKE) test-wheel

lint-and-docs: $(VENV)/.dev-$(ASKED) $(VENV)/.docs-$(ASKED)
	$(MAKE) -j1 lint docs

notebooks: $(VENV)/.test-$(ASKED) ## execute the notebooks again, outputs in place
	$(BIN)/python notebooks/execute.py

benchmark: $(VENV)/.core-$(ASKED) ## map quality on digits, five seeds
	$(BIN)/python benchmarks/digits.py

benchmark-peers: $(VENV)/.core-$(ASKED) ## quality and speed beside the peers, five data sets: hours
	$(BIN)/python benchmarks/peers.py

benchmark-neighbors: $(VENV)/.core-$(ASKED) ## recall and seconds of the neighbour libraries
	$(BIN)/python benchmarks/neighbors.py

benchmark-scaling: $(VENV)/.core-$(ASKED) ## cost and quality of a fit from 10,000 to 10,000,000 rows: an hour
	$(BIN)/python benchmarks/scaling.py

benchmark-bulk: $(VENV)/.test-$(ASKED) ## rows a second by one, two and four workers of Ray
	$(BIN)/python benchmarks/bulk.py

benchmark-storage: $(VENV)/.core-$(ASKED) ## bytes, recall and speed of an index of a million rows and ten
	$(BIN)/python benchmarks/storage.py

benchmark-sample: $(VENV)/.core-$(ASKED) ## what a rare class loses where a fit learns from a sample
	$(BIN)/python benchmarks/sample.py

benchmark-step: $(VENV)/.core-$(ASKED) ## what a training step costs, part by part
	$(BIN)/python benchmarks/step.py

benchmark-precision: $(VENV)/.core-$(ASKED) ## map quality in half precision
	$(BIN)/python benchmarks/precision.py

benchmark-sources: $(VENV)/.test-$(ASKED) ## memory and speed of each source of rows
	$(BIN)/python benchmarks/sources.py

benchmark-paper: $(VENV)/.core-$(ASKED) ## the experiment of 2009 on MNIST, and the value of pretraining: hours
	$(BIN)/python benchmarks/paper.py
	$(BIN)/python benchmarks/paper.py --study

benchmark-rbm: $(VENV)/.core-$(ASKED) ## an epoch of RBM pretraining beside its matrix products alone
	$(BIN)/python benchmarks/rbm.py

benchmark-map: $(VENV)/.core-$(ASKED) ## new rows on openTSNE's maps: placement and regression
	$(BIN)/python benchmarks/map.py

benchmark-map-size: $(VENV)/.core-$(ASKED) ## memory and speed of MapRegressor on rows from disk
	$(BIN)/python benchmarks/map_size.py

benchmark-serving: $(VENV)/.core-$(ASKED) ## latency of exported models, beside their products alone
	$(BIN)/python benchmarks/serving.py

benchmark-fuzz: $(VENV)/.test-$(ASKED) ## damaged files through every reader
	$(BIN)/python benchmarks/fuzz.py

benchmark-refine: $(VENV)/.core-$(ASKED) ## freed rows beside a table of places: an hour
	$(BIN)/python benchmarks/refine.py

benchmark-reference: $(VENV)/.core-$(ASKED) ## quality, size and latency of exports by their reference rows
	$(BIN)/python benchmarks/reference.py

benchmark-robustness: $(VENV)/.core-$(ASKED) ## what kills, power cuts, second writers and damage lose
	$(BIN)/python benchmarks/robustness.py

clean: ## remove what was built
	rm -rf $(VENV) $(JAX) $(WHEEL) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache

# Make a virtual environment, of a Python that TensorFlow has wheels for. One without pip, as Debian
# leaves it where python3-venv is not installed, is made again.
define make_venv
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
  echo "Python should be 3.11, 3.12 or 3.13; set PYTHON=python3.x. Received: $$($(PYTHON) -V)" >&2; exit 1; }
@$(@D)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(@D)
@find $(@D) -mindepth 1 -maxdepth 1 -name '.*-*' ! -name '.*-$(ASKED)' -delete
endef

# Not --quiet: TensorFlow is large, and silence would look like a hang.
PIP := bin/python -m pip install --disable-pip-version-check

$(VENV)/.core-$(ASKED):
	$(make_venv)
	$(VENV)/$(PIP) --editable '.[$(TF)]'
	touch $@

# JAX alone is installed here; all else is seen in the environment of the wheel.
$(JAX)/.test-$(ASKED): $(WHEEL)/.test-$(ASKED)
	$(make_venv)
	$(WHEEL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(JAX)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/wheel.pth"
	$(JAX)/$(PIP) "$$(echo dist/ptsne_keras-*.whl)[jax]"
	touch $@

# The protos of TensorFlow Serving bring, as a dependency, another TensorFlow.
$(VENV)/.test-$(ASKED): $(VENV)/.core-$(ASKED)
	$(VENV)/$(PIP) --editable '.[test]'
	$(VENV)/$(PIP) --no-deps 'tensorflow-serving-api>=2.20,<2.22'
	touch $@

# A change of the source only reinstalls the wheel.
$(WHEEL)/.test-$(ASKED): | dist
	$(make_venv)
	$(WHEEL)/$(PIP) "$$(echo dist/ptsne_keras-*.whl)[$(TF),test]"
	$(WHEEL)/$(PIP) --no-deps 'tensorflow-serving-api>=2.20,<2.22'
	touch $@

# Without TensorFlow, which neither reads.
$(VENV)/.dev-$(ASKED):
	$(make_venv)
	$(VENV)/$(PIP) --editable '.[dev]'
	touch $@

$(VENV)/.docs-$(ASKED): $(VENV)/.dev-$(ASKED)
	$(VENV)/$(PIP) --editable '.[docs]'
	touch $@
