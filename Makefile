# `make help` lists the targets: what stands after ## beside each.
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python,$(shell command -v $(p) 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster test-models lint fmt setup smoke lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: setup ## sets up, runs the pipeline, makes a video of an unseen person saying an unseen sentence
	$(BIN)/dvc repro
	$(BIN)/python -m stages.demo

test: setup lint ## sets up, runs lint, types and tests, the smoke pipeline among them
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2

test-cluster: setup ## kills servers, workers, remotes of a small cluster on this machine, runs the smoke run over it; an hour
	$(BIN)/python -m pytest -m cluster tests/flows

# In an environment of its own, so that .venv stays the default install. --no-deps: the pins are complete, and agree with requirements.lock.
# torchaudio's libraries want CUDA's; without CUDA they go, and its Python, which is all that Coqui needs, loads.
test-models: ## the tests of published models' classes that `make test` skips, with transformers, onnxruntime, Coqui, in .venv-models
	$(MAKE) --no-print-directory setup VENV=.venv-models
	.venv-models/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 --no-deps -r requirements-models.lock
	.venv-models/bin/python -c 'import torch; exit(torch.version.cuda is None)' || rm -f .venv-models/lib/python*/site-packages/torchaudio/lib/*.so
	PATH=$(abspath .venv-models/bin):$$PATH .venv-models/bin/python -m pytest -n 2 -m models

lint: setup ## checks style, format and types
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/pyright

fmt: setup ## formats the code, rewrites what is generated from it: code dependencies in dvc.yaml, drawings in docs/
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .
	$(BIN)/python -m stages.deps --write
	$(BIN)/python -m stages.graph --write

setup: $(STAMP) ## the environment .venv, from requirements.lock

# The lock file is the whole truth about versions; pyproject.toml only bounds them. The package itself comes last: it compiles the
# CPU kernel and says in one line when there is no compiler.
$(STAMP): requirements.lock pyproject.toml CMakeLists.txt $(wildcard avatar_core/render/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	  { echo "error: Python 3.11 is needed, found: $$($(PYTHON) --version 2>&1 || echo none); try make PYTHON=/path/to/python3.11"; exit 2; }
	@command -v $${CXX:-c++} >/dev/null || \
	  { echo "error: a C++17 compiler is needed to build the renderer, found none; on Debian or Ubuntu: apt-get install g++"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: 'python -m venv' does not work; on Debian or Ubuntu: apt-get install python3.11-venv"; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	$(BIN)/python -c 'from avatar_core.procedural.people.anny_export import ensure_export; ensure_export()'
	@touch $(STAMP)

smoke: setup ## the whole pipeline at its smallest, through Prefect
	$(BIN)/python -m flows.pipeline --profile smoke

# In an empty environment. torch's local version tag (+cpu) is dropped: the same pin serves every index.
lock: ## new pins in requirements.lock and requirements-models.lock, from pyproject.toml
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --editable '.[espeak,dev]'
	{ echo "# Every package of the default install and its tests, pinned: 'make lock' made it from pyproject.toml, Python 3.11."; \
	  build/lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock
	build/lock/bin/pip install --quiet --constraint requirements.lock --editable '.[models,coqui]'
	build/lock/bin/pip install --quiet --no-deps diffsynth rtmlib
	{ echo "# What 'make test-models' adds to requirements.lock: the extras models and coqui; diffsynth and rtmlib without what they need,"; \
	  echo "# since tests read the one's source and rtmlib would bring another OpenCV. 'make lock' made it."; \
	  build/lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -vxFf requirements.lock; } > requirements-models.lock

clean: ## removes the environment and unfinished work; artifacts stay
	rm -rf $(VENV) .venv-models build data/work data/logs demo ablations
