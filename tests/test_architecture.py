# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: who may import and include whom, and how long a file may be; docs/architecture.md tells them."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.architecture import imported_rooms, imports_of_rooms, levels, picture, room_of

ROOT = Path(__file__).parents[1]
# Where to ask whether a file means one thing. A file is cut where its meaning is cut, never to fit.
MANY_LINES = 500
# Longer files that mean one thing, and why they are not cut.
LONG_FILES: dict[str, str] = {
    "genaccel/codec/image_codec.py": "one class, the public face of the codec; all that can stand apart does",
}

METHODS = {"sensitivity", "speculative_sr", "skip_decoding", "codec", "distill", "tokenizer"}
# The floor that every method stands on.
FLOOR = {
    "ops",
    "layers",
    "models",
    "zoo",
    "files",
    "data",
    "training",
    "hooks",
    "sampling",
    "_coder",
}
# room -> rooms of genaccel that it may import, besides itself and errors
PYTHON_RULES = {
    "errors": set(),
    "_library": set(),
    "ops": {"_library"},
    "reference": set(),
    "layers": {"ops"},
    "files": set(),
    "models": {"ops", "layers", "files"},
    "data": {"files"},
    "zoo": {"models", "files"},
    "hooks": {"ops"},
    "training": {"models", "data", "files"},
    "acceleration": {"hooks", *METHODS},
    "sampling": {"ops", "models", "zoo", "files", "data", "hooks"},
    **dict.fromkeys(METHODS, FLOOR),
    "eval": {*FLOOR, *METHODS} - {"training"},
    "pipelines": {*FLOOR, *METHODS, "acceleration"} - {"training", "data"},
    "cli": {*FLOOR, *METHODS, "acceleration", "eval", "pipelines"},
    # The public face names configs and entry points.
    "__init__": {"acceleration", "sensitivity", "skip_decoding", "files"},
}
STANDARD_HEADER = re.compile(r"[a-z_0-9]+$")  # <vector>, <cstdint>: no dot, no slash


def tracked(*patterns):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def name_of(path):
    return str(path.relative_to(ROOT))


PYTHON_FILES = list(tracked("genaccel/*.py", "eval/*.py", "pipelines/*.py"))
NATIVE_FILES = tracked("csrc/*.h", "csrc/*.cuh", "csrc/*.cpp", "csrc/*.cu")


def test_the_walk_sees_the_house():
    assert len(PYTHON_FILES) > 20
    assert len(NATIVE_FILES) > 15
    assert imported_rooms(ROOT / "genaccel/layers/vector_quantizer.py") == {"ops"}
    assert "torch/csrc/stable/ops.h" in includes(ROOT / "csrc/bindings/torch_compat.h")


def test_python_files_import_only_what_their_rooms_may():
    rooms = {room_of(path) for path in PYTHON_FILES}
    assert rooms <= set(PYTHON_RULES), "these are no rooms of the house"
    wrong = {
        name_of(path): imported - PYTHON_RULES[room] - {room, "errors"}
        for path in PYTHON_FILES
        for room, imported in [(room_of(path), imported_rooms(path))]
    }
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}


def imported_files(path):
    """Files of the house that a file imports, types included, by their modules' names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genaccel"):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_files_import_each_other_in_a_circle():
    paths = {
        "genaccel." * (path.relative_to(ROOT).parts[0] != "genaccel")
        + ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in PYTHON_FILES
        # A room's face names what is in it, for type checkers.
        if path.name != "__init__.py"
    }
    left = {name: imported_files(path) & set(paths) - {name} for name, path in paths.items()}
    assert len(left["genaccel.hooks.engine"]) > 5
    while True:
        leaves = {name for name, needs in left.items() if not needs & set(left)}
        if not leaves:
            break
        left = {name: needs for name, needs in left.items() if name not in leaves}
    assert not left, f"each of these is in a circle, or needs one that is: {sorted(left)}"


def test_reference_is_imported_by_tests_alone():
    importers = [p for p in tracked("*.py") if "reference" in imported_rooms(p)]
    assert importers
    for path in importers:
        assert path.relative_to(ROOT).parts[0] == "tests" or room_of(path) == "reference"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, genaccel; sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'diffusers')))"
    subprocess.run([__import__("sys").executable, "-c", code], check=True, cwd=ROOT)


def includes(path):
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), re.M)


def allowed_include(path, header):
    """Whether a file of csrc may include a header; the table is in csrc/README.md."""
    folder, name = path.relative_to(ROOT / "csrc").parts[-2:]
    own = header.startswith(f"{folder}/")
    cuda = header == "cuda_runtime.h" or header.startswith("cub/")
    if folder == "bindings":
        if name == "torch_compat.h":
            return (
                header.startswith(("torch/csrc/stable/", "torch/headeronly/", "common/"))
                or (header == "torch/csrc/inductor/aoti_torch/c/shim.h")
                or bool(STANDARD_HEADER.match(header))
            )
        bridge = re.match(r"(?!common/|coder/)[a-z_]+/[a-z_0-9]+\.h$", header)
        inner = header.endswith(("_math.h", "_shared.h"))
        return bool((bridge and not inner) or STANDARD_HEADER.match(header))
    if folder == "coder":
        python = name == "module.cpp" and header.startswith("pybind11/")
        plain = header.startswith("common/") and header.endswith(".h") and "simd" not in header
        return own or plain or python or bool(STANDARD_HEADER.match(header))
    if folder == "common":
        if name.endswith(".cuh"):
            return header.startswith("common/") or cuda
        if name.startswith("simd") and STANDARD_HEADER.match(header):
            return True
        return header in ("cstdint", "cmath") or re.match(r"common/[a-z_]+\.h$", header) is not None
    if header.startswith("common/simd"):
        return name.endswith(("_cpu.cpp", "_shared.h"))
    if header in ("cstdint", "cmath") or re.match(
        rf"(common/[a-z_]+|{folder}/[a-z_]+_shared)\.h$", header
    ):
        return True
    stem = re.sub(r"(_cpu\.cpp|_cuda\.cu|\.h)$", "", name)
    if name.endswith("_shared.cuh"):
        return header.startswith("common/") or cuda
    if name.endswith("_cpu.cpp"):
        return header == f"{folder}/{stem}.h" or bool(STANDARD_HEADER.match(header))
    if name.endswith("_cuda.cu"):
        shared = own and header.endswith("_shared.cuh")
        return header == f"{folder}/{stem}.h" or header.startswith("common/") or shared or cuda
    return header == f"{folder}/{stem}_math.h"


@pytest.mark.parametrize(
    "package", ["genaccel", "genaccel.codec", "genaccel.eval", "genaccel.sensitivity"]
)
def test_names_that_load_on_first_use_are_there(package):
    module = importlib.import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_native_files_include_only_what_they_may():
    wrong = [
        (name_of(path), header)
        for path in NATIVE_FILES
        for header in includes(path)
        if not allowed_include(path, header)
    ]
    assert wrong == []


def test_device_code_does_not_allocate_or_wait():
    waits = re.compile(r"cudaMalloc|cudaFree|Synchronize\(|exit\(|abort\(")
    device = [path for path in NATIVE_FILES if path.suffix in (".cu", ".cuh")]
    assert len(device) > 5
    assert [name_of(path) for path in device if waits.search(path.read_text())] == []


SOURCES = tracked("*.py", "*.cpp", "*.cu", "*.h", "*.cuh", "CMakeLists.txt", "Makefile")


def test_long_files_are_long_for_a_reason():
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in SOURCES}
    assert {name for name, text in texts.items() if len(text.splitlines()) > MANY_LINES} == set(
        LONG_FILES
    )


def test_files_say_their_licence():
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in SOURCES}
    licence = "SPDX-License-Identifier: Apache-2.0"
    assert [name for name, text in texts.items() if text and licence not in text[:200]] == []


def test_the_picture_is_that_of_the_code():
    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == picture()
    assert levels(imports_of_rooms())["cli"] > levels(imports_of_rooms())["hooks"] > 0


def test_no_attic_modules():
    assert [p for p in SOURCES if p.stem in {"utils", "helpers", "misc", "common"}] == []
