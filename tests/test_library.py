# SPDX-License-Identifier: Apache-2.0
"""The native library as a binary: what it holds, and what it does not need."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import genaccel.ops
from genaccel import _library, reference

sys.path.insert(0, str(Path(__file__).parent))
from op_cases import OP_CASES

LIBRARY = _library.load()
OPS = sorted(
    name.removeprefix("genaccel::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("genaccel::")
)
every_op = pytest.mark.parametrize("name", OPS)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_there_are_operators():
    assert "nearest_code" in OPS
    assert "pmf_to_cdf" in OPS


@every_op
def test_operator_has_cpu_and_fake_kernels(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"genaccel::{name}", "CPU")
    assert torch._library.simple_registry.singleton.find(f"genaccel::{name}").fake_impl.kernel


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc: a CPU build")
@every_op
def test_operator_has_a_cuda_kernel(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"genaccel::{name}", "CUDA")


@every_op
def test_operator_has_a_case_and_a_reference(name):
    assert name in {case.name for case in OP_CASES}
    assert name in reference.__all__


@every_op
def test_operator_has_a_wrapper(name):
    assert name.endswith("_backward") or name in genaccel.ops.__all__


def test_library_holds_no_python_symbol():
    symbols = run("nm", "-D", str(LIBRARY))
    assert "aoti_torch" in symbols  # nm did see the file
    assert [
        line for line in symbols.splitlines() if line.split()[-1].startswith(("Py", "_Py"))
    ] == []


def test_library_needs_no_cuda_and_no_python_library():
    dynamic = run("readelf", "-d", str(LIBRARY))
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "NEEDED" in line]
    assert "libtorch.so" in needed
    assert [n for n in needed if n.startswith(("libcu", "libnv", "libpython", "libc10"))] == []


def test_library_holds_no_build_path():
    assert str(Path(__file__).parents[1]).encode() not in LIBRARY.read_bytes()


def test_missing_library_says_how_to_build_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _library.load.cache_clear()
    with pytest.raises(ImportError, match="pip install --no-build-isolation"):
        _library.load()
    monkeypatch.undo()
    assert _library.load() == LIBRARY
