# SPDX-License-Identifier: Apache-2.0
"""All that is to be known of the kernels on a GPU, in one command on a bare machine.

    python bench/gpu.py [--quick] [--json FILE] [--skip STAGE ...] [--only OP]

Stages: ``build`` compiles the checkout for the GPU at hand; ``tests`` runs those marked ``cuda``, which
fail rather than skip; ``sanitizer`` runs the smallest case of each operator under compute-sanitizer, where it is installed; ``ops``
measures (``bench/gpu_ops.py``). Needs PyTorch with CUDA, nvcc, CMake, ninja, scikit-build-core and pybind11; nothing is
fetched. By default results go to ``bench/results/<device>-ops.json``.

Exit codes: 0; 1 if a stage found something wrong; 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("build", "tests", "sanitizer", "ops")
NO_CUDA = "bench/gpu.py needs a CUDA device, and the PyTorch of this Python sees none"
SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck")
# PyTorch's caching allocator hides overruns between its own tensors from memcheck.
_SANITIZER_ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="large sizes only, fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results go")
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=STAGES, metavar="STAGE", help=", ".join(STAGES)
    )
    parser.add_argument("--only", default="", metavar="OP", help="one operator")
    return parser.parse_args(arguments)


def device() -> tuple[str, str] | None:
    """Name and architecture (``"90"``) of the GPU that a fresh Python sees; None without one."""
    code = (
        "import torch\nif torch.cuda.is_available():\n"
        " print(torch.cuda.get_device_name(), '%d%d' % torch.cuda.get_device_capability(), sep='\\n')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    if found.returncode:
        print(found.stderr.strip()[-500:], file=sys.stderr)
    lines = found.stdout.split("\n")
    return (lines[0], lines[1]) if len(lines) > 1 else None


def result_path(device_name: str) -> Path:
    """``bench/results/h200-ops.json`` for "NVIDIA H200"."""
    words = re.findall(r"[a-z0-9]+", device_name.lower())
    short = "-".join(word for word in words if word not in ("nvidia", "geforce", "tesla"))
    return ROOT / "bench/results" / f"{short}-ops.json"


def build_command(architecture: str) -> list[str]:
    """Compile and install the checkout, without fetching anything."""
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet"),
        *("--no-build-isolation", "--no-deps", "--editable", str(ROOT)),
        *("--config-settings", "cmake.define.GENACCEL_CUDA=ON"),
        *("--config-settings", f"cmake.define.CMAKE_CUDA_ARCHITECTURES={architecture}"),
    ]


def tests_command() -> list[str]:
    """The tests of the kernels; modules that want a package that is not there do not stop the others."""
    options = ["-q", "-rs", "-m", "cuda and not slow", "--continue-on-collection-errors"]
    return [sys.executable, "-m", "pytest", *options, "tests"]


def sanitizer_command(sanitizer: str, tool: str, only: str = "") -> list[str]:
    """One tool over each operator's smallest case."""
    script = str(ROOT / "bench/gpu_smallest.py")
    options = [f"--tool={tool}", "--error-exitcode=9", "--print-limit=20"]
    return [sanitizer, *options, sys.executable, script, *([only] if only else [])]


def run(command: Sequence[str], **environment: str) -> tuple[int, str]:
    """Exit code and output of a command, which is shown as it comes."""
    print("$", " ".join(map(str, command)), flush=True)
    lines = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def tests_summary(exit_code: int, output: str) -> dict[str, Any]:
    """Counts of pytest's last line; a run that did not get so far is one failure."""
    counts = {
        word: int(number)
        for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", output[-2000:])
    }
    failures = sum(counts.get(word, 0) for word in ("failed", "error", "errors"))
    if exit_code and not failures:
        failures = 1
    # For want of a package: a missing device fails them.
    note = f"{counts['skipped']} skipped" if "skipped" in counts else ""
    return {"failures": failures, "passed": counts.get("passed", 0), "note": note}


def sanitizer_summary(exit_code: int, output: str) -> dict[str, Any]:
    """Operators that the sanitizer complains about, from the marks between its lines."""
    errors: dict[str, int] = {}
    operator, done = "before the first", 0
    for line in output.splitlines():
        if line.startswith("operator "):
            operator, done = line.split()[1], done + 1
        elif re.match(r"=+ (Invalid|Program hit|Error|Warning: Race|Barrier error|Uninit)", line):
            errors[operator] = errors.get(operator, 0) + 1
    refused = "Device not supported" in output
    failures: int | None = sum(errors.values())
    if refused:
        failures = None
    elif exit_code and not failures:
        failures = 1
    note = (
        "this machine refuses it" if refused else " ".join(f"{k}: {v}" for k, v in errors.items())
    )
    return {"failures": failures, "passed": max(done - len(errors), 0), "note": note}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages one after the other; each of them is a process of its own."""
    options = parse(arguments)
    found = device()
    if found is None:
        print(NO_CUDA, file=sys.stderr)
        return 2
    name, architecture = found
    stages = [stage for stage in STAGES if stage not in options.skip]
    checks: dict[str, dict[str, Any]] = {}
    if "build" in stages:
        exit_code, _ = run(build_command(architecture))
        if exit_code:
            print("bench/gpu.py: the build failed", file=sys.stderr)
            return 1
    if "tests" in stages:
        checks["cuda_tests"] = tests_summary(*run(tests_command(), GENACCEL_REQUIRE_CUDA="1"))
    if "sanitizer" in stages:
        sanitizer = shutil.which("compute-sanitizer")
        if sanitizer is None:
            checks["sanitizer"] = {"failures": None, "passed": 0, "note": "is not installed"}
        else:
            for tool in SANITIZER_TOOLS:
                command = sanitizer_command(sanitizer, tool, options.only)
                checks[tool] = sanitizer_summary(*run(command, **_SANITIZER_ENVIRONMENT))
    is_wrong = any(check["failures"] for check in checks.values())
    if "ops" in stages:
        is_wrong |= _measure(options, name, checks) != 0
    else:
        print(json.dumps(checks, indent=1))
    return int(is_wrong)


def _measure(options: argparse.Namespace, name: str, checks: dict[str, Any]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "checks.json"
        found.write_text(json.dumps(checks))
        command = [sys.executable, str(ROOT / "bench/gpu_ops.py"), "--checks", str(found)]
        command += ["--json", str(options.json or result_path(name))]
        command += ["--only", options.only] if options.only else []
        command += ["--quick"] if options.quick else []
        return run(command)[0]


if __name__ == "__main__":
    sys.exit(main())
