# SPDX-License-Identifier: Apache-2.0
"""What can be seen of the kernels without a GPU: registers that spill, and how wide they load and store."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc").glob("*/*_cuda.cu"))
ARCHITECTURES = ("80", "90")

# Instances by the rest of their name; what is memory-bound moves 16 bytes an instruction both ways. A kernel's last
# template argument is the elements of a pack: 1 is for views that start or end anywhere.
_PACKS = r"_kernel<(genaccel::Half, 8|genaccel::BFloat16, 8|float, 4|double, 2)[,>]"
WIDE = {
    "predict_add_cuda": (_PACKS, 4, ("LDG", "STG")),
    "token_scores_cuda": (_PACKS, 8, ("LDG",)),
    "nearest_code_cuda": (r"(normalize|backward)_kernel<(float, 4|double, 2)>", 4, ("LDG", "STG")),
    "integer_gate_cuda": (r"_kernel<16>", 1, ("LDG", "STG")),
    "integer_rms_norm_cuda": (r"_kernel<4>", 1, ("LDG",)),
    "integer_rotate_normalize_cuda": (r"_kernel<4, 4>", 1, ("LDG",)),
    "integer_linear_cuda": (r"_kernel<(signed char|short|int)>", 3, ("LDG",)),
    "soft_cross_entropy_cuda": (r"forward_kernel<float, float>", 1, ("LDG",)),
    "soft_cross_entropy_backward_cuda": (r"_kernel<float, float[,>]", 1, ("LDG",)),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc"),
]


def disassembler():
    """cuobjdump of the CUDA toolkit, or the one that Triton brings along."""
    found = shutil.which("cuobjdump")
    if found is None:
        triton = pytest.importorskip("triton")
        found = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        if not found.is_file():
            pytest.skip("needs cuobjdump")
    return str(found)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles a source as CMake does; its cubin, and what the assembler said. Each is compiled once."""
    folder, made = tmp_path_factory.mktemp("cubin"), {}

    def compile_source(source, architecture):
        if (source, architecture) not in made:
            cubin = folder / f"{source.stem}.{architecture}.cubin"
            command = ["nvcc", "-std=c++17", "-O3", "-DNDEBUG", f"-I{ROOT / 'csrc'}"]
            command += [f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]
            command += ["-Xptxas", "-v", "-cubin", "-o", str(cubin), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            made[source, architecture] = cubin, done.stderr
        return made[source, architecture]

    return compile_source


def readable(name):
    filter_ = shutil.which("c++filt")
    if filter_ is None:
        return name
    done = subprocess.run([filter_, name], capture_output=True, text=True, check=True)
    return done.stdout.strip().replace("(anonymous namespace)::", "")


def resources(text):
    """Kernel: bytes of stack, of spill stores and of spill loads, from the assembler's report."""
    pattern = (
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, "
        r"(\d+) bytes spill stores, (\d+) bytes spill loads"
    )
    return {m[1]: tuple(map(int, m.groups()[1:])) for m in re.finditer(pattern, text, re.S)}


def instructions(cubin):
    """Kernel: its instructions that touch memory, with their modifiers, such as LDG.E.128."""
    command = [disassembler(), "-sass", str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kernels = re.split(r"^\s*Function : ", text, flags=re.M)[1:]
    return {
        kernel.split(maxsplit=1)[0]: re.findall(r"\b(?:LD|ST)[GLS]?(?:\.[A-Z0-9]+)+", kernel)
        for kernel in kernels
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_no_register_spills_and_no_array_is_in_local_memory(compiled, source, architecture):
    found = resources(compiled(source, architecture)[1])
    assert found
    assert {readable(name): values for name, values in found.items() if any(values)} == {}


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs c++filt")
@pytest.mark.parametrize("stem", WIDE)
def test_memory_bound_kernels_move_16_bytes_at_a_time(compiled, stem):
    (source,) = (path for path in SOURCES if path.stem == stem)
    pattern, count, kinds = WIDE[stem]
    found = {readable(k): v for k, v in instructions(compiled(source, "90")[0]).items()}
    chosen = {name: used for name, used in found.items() if re.search(pattern, name)}
    assert len(chosen) >= count, sorted(found)
    for name, used in chosen.items():
        for kind in kinds:
            assert any(re.match(rf"{kind}\.E\.128", i) for i in used), (
                f"{name}: {sorted(set(used))}"
            )


def test_every_kernel_is_compiled_by_cmake():
    listed = re.findall(
        r"^genaccel_op\((\w+) (\w+)\)$", (ROOT / "CMakeLists.txt").read_text(), re.M
    )
    kernels = [(s.parent.name, s.stem.removesuffix("_cuda")) for s in SOURCES]
    assert sorted(listed) == sorted(kernels)
