# SPDX-License-Identifier: Apache-2.0
"""Kernels and their launches on the threads of a CPU: what they compute and report, without a GPU.

Files depend on the integer kernels to the bit. ``tests/ops`` compares them with the CPU's code where there is a GPU;
here ``on_threads/cuda_runtime.h`` stands for CUDA, so that a change of indices or reductions is seen on any machine.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "on_threads"
KERNELS = ("gate", "rms_norm", "rotate_normalize", "linear")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def printed_by(program, *sources):
    """Compile sources, kernels among them, run the program, and return what it printed."""
    # -w: attributes of CUDA, and pragmas of its compiler.
    command = ["g++", "-std=c++20", "-O1", "-w", f"-I{FOLDER}", f"-I{ROOT / 'csrc'}"]
    command += ["-x", "c++", *map(str, sources), "-lpthread", "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_integer_kernels_are_equal_to_the_cpus_code(tmp_path):
    sources = [FOLDER / "integer_kernels.cpp"]
    for name in KERNELS:
        sources += [
            ROOT / f"csrc/integer/integer_{name}{kind}" for kind in ("_cuda.cu", "_cpu.cpp")
        ]
    assert printed_by(tmp_path / "integer_kernels", *sources) == ""


@pytest.mark.slow
def test_decoding_kernels_are_equal_to_the_cpus_code(tmp_path):
    sources = [FOLDER / "decoding_kernels.cpp", *(ROOT / "csrc/decoding").glob("*_c*u*")]
    assert len(sources) == 11
    assert printed_by(tmp_path / "decoding_kernels", *sources) == ""


@pytest.mark.slow
def test_kernels_of_frequencies_agree_with_the_cpus_code(tmp_path):
    sources = [FOLDER / "frequency_kernels.cpp"]
    for name in ("frequency_update", "low_pass"):
        sources += [ROOT / f"csrc/frequency/{name}{kind}" for kind in ("_cuda.cu", "_cpu.cpp")]
    assert printed_by(tmp_path / "frequency_kernels", *sources) == ""


def test_a_launch_reports_its_own_error_alone(tmp_path):
    assert printed_by(tmp_path / "launches", FOLDER / "launches.cpp") == ""


def test_every_kernel_starts_by_the_one_function():
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").rglob("*.cu*")}
    assert len(sources) > 10
    launches = re.compile(r"<<<|cudaLaunch|cudaGetLastError|cudaPeekAtLastError")
    assert [name for name, text in sources.items() if launches.search(text)] == ["launch.cuh"]
