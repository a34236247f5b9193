# SPDX-License-Identifier: Apache-2.0
"""Integer kernels run on the threads of a CPU: what they compute, without a GPU.

Files depend on these kernels to the bit. ``tests/ops`` compares them with the CPU's code where there is a GPU; here
``on_threads/cuda_runtime.h`` stands for CUDA, so that a change of indices or reductions is seen on any machine.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "on_threads"
KERNELS = ("gate", "rms_norm", "rotate_normalize", "linear")
LAUNCH = re.compile(r"(\b\w+(?:<[^<>;]*(?:<[^<>]*>)?[^<>;]*>)?)\s*<<<(.*?)>>>\(", re.S)


def without_launch_syntax(source):
    text, count = LAUNCH.subn(r"on_threads::launch(\1, \2)(", source.read_text())
    assert count == source.read_text().count("<<<")
    return text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_integer_kernels_are_equal_to_the_cpus_code(tmp_path):
    sources = [FOLDER / "integer_kernels.cpp"]
    for name in KERNELS:
        converted = tmp_path / f"{name}.cpp"
        converted.write_text(without_launch_syntax(ROOT / f"csrc/integer/integer_{name}_cuda.cu"))
        sources += [converted, ROOT / f"csrc/integer/integer_{name}_cpu.cpp"]
    program = tmp_path / "integer_kernels"
    # -w: attributes of CUDA, and pragmas of its compiler.
    command = ["g++", "-std=c++20", "-O1", "-w", f"-I{FOLDER}", f"-I{ROOT / 'csrc'}"]
    command += [*map(str, sources), "-lpthread", "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=1200)
    assert done.stdout == ""
    assert done.returncode == 0
