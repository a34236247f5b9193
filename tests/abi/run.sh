#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the operator tests, and those of files that must decode everywhere, under other versions of torch with the library
# that is already built, unchanged.
# Usage: tests/abi/run.sh REQUIREMENT...   for example 'torch==2.11.*' torch
set -euo pipefail
cd "$(dirname "$0")/../.."
library=$(.venv/bin/python -c 'from genaccel import _library; print(_library.load())')
coder=$(.venv/bin/python -c 'from genaccel import _coder; print(_coder.__file__)')
for requirement in "$@"; do
  name=$(tr -dc 'a-z0-9.' <<<"$requirement")
  folder=build/abi/$name
  if [ ! -e "$folder/done" ]; then
    "${PYTHON:-python3}" -m venv "$folder"
    "$folder/bin/pip" install --quiet --upgrade pip
    "$folder/bin/pip" install --quiet "$requirement" numpy pytest safetensors expecttest pillow tqdm
    touch "$folder/done"
  fi
  # A package tree of links (-P below: not the checkout itself): the sources of the checkout, the binaries of the build.
  rm -rf "$folder/tree" && mkdir -p "$folder/tree/genaccel"
  for entry in genaccel/*; do ln -s "$PWD/$entry" "$folder/tree/genaccel/"; done
  ln -s "$library" "$coder" "$folder/tree/genaccel/"
  echo "== $("$folder/bin/python" -c 'import torch; print("torch", torch.__version__)')"
  PYTHONPATH=$PWD/$folder/tree "$folder/bin/python" -P -m pytest -q -p no:cacheprovider tests/ops tests/test_library.py tests/coder tests/codec/test_bit_exactness.py
done
