# SPDX-License-Identifier: Apache-2.0
"""The coder and the CPU code under ASan, UBSan and TSan, fed with hostile inputs: what happened, how often.

``CMakePresets.json`` says how ``tests/native/sanitized`` is built; neither torch nor Python is in it. Stages: streams
and tables of the coders; every op, with results computed again; arrays that another thread writes to meanwhile; and
what threads rightly share. Ops run with the vectors of this processor and without: integers must be equal to the bit.
Exit code 1 after any report.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 1800  # of a stage: none takes a tenth of it
INPUTS_WANTED = 100_000  # of the coder, and of the ops


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A run of the harness; an input of races makes many reads."""

    preset: str
    name: str
    count: int
    vectors: bool = True


def stages(quick: bool) -> list[Stage]:
    """What is run, in this order."""
    share = 20 if quick else 1
    return [
        Stage(preset="sanitize", name="coder", count=150_000 // share),
        Stage(preset="sanitize", name="ops", count=150_000 // share),
        Stage(preset="sanitize", name="ops", count=150_000 // share, vectors=False),
        Stage(preset="sanitize", name="races", count=1000 // share),
        Stage(preset="sanitize-threads", name="threads", count=4000 // share),
    ]


def build(preset: str) -> Path:
    """The harness of a preset."""
    for command in (["--preset", preset], ["--build", "--preset", preset]):
        done = subprocess.run(["cmake", *command], cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"cmake {' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr}")
    return ROOT / "build" / preset / "tests" / "native" / "sanitized" / "hostile_inputs"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a stage ended.

    Args:
        counts: Kind of input, what happened, how often.
        digest: Of all results that are integers.
        report: What a sanitizer, or the harness itself, reported; empty if nothing.
    """

    counts: list[tuple[str, str, int]]
    digest: str
    report: str


def run(harness: Path, stage: Stage) -> Outcome:
    """Run a stage to its end, to its first report, or for ``TIMEOUT_S``."""
    # The capability with which torch, and this library, does without vectors.
    environment = dict(os.environ, ATEN_CPU_CAPABILITY="" if stage.vectors else "default")
    command = [str(harness), stage.name, "0", str(stage.count)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Outcome(counts=[], digest="", report=f"no end after {TIMEOUT_S} s")
    return outcome(done.returncode, done.stdout, done.stderr)


def outcome(returncode: int, output: str, errors: str) -> Outcome:
    """What the harness printed."""
    found = re.findall(r"^count ([^:\n]+): (.+) (\d+)$", output, re.M)
    counts = [(kind, happened, int(count)) for kind, happened, count in found]
    digest = re.search(r"^digest (\w+)$", output, re.M)
    if returncode != 0 or digest is None:
        report = errors.strip() or f"exit code {returncode}"
        return Outcome(counts=counts, digest="", report=report)
    return Outcome(counts=counts, digest=digest[1], report="")


def main() -> None:
    """Build, run, and count."""
    bench = Bench.from_command_line(
        "sanitize", "The coder and the CPU code under sanitizers, fed with hostile inputs."
    )
    harnesses = {preset: build(preset) for preset in ("sanitize", "sanitize-threads")}
    reports: list[str] = []
    digests: dict[str, set[str]] = {}
    inputs: dict[str, int] = {}
    for stage in stages(bench.quick):
        start = time.perf_counter()
        ended = run(harnesses[stage.preset], stage)
        seconds = time.perf_counter() - start
        if "unexpected memory mapping" in ended.report:
            print("TSan of this compiler does not start on this kernel: nothing known of threads")
            continue
        if ended.report:
            reports.append(f"{stage}: {ended.report}")
        digests.setdefault(stage.name, set()).add(ended.digest)
        inputs[stage.name] = stage.count  # the same ones without vectors
        for kind, happened, count in ended.counts:
            bench.rows.append(
                {
                    "stage": stage.name,
                    "sanitizers": "TSan" if stage.preset == "sanitize-threads" else "ASan, UBSan",
                    "vectors": stage.vectors,
                    "input": kind,
                    "outcome": happened,
                    "count": count,
                }
            )
        print(f"{stage.name}: {stage.count} inputs in {seconds:.1f} s", flush=True)
    reports += [
        f"{name}: results depend on the instruction set"
        for name, found in digests.items()
        if len(found) > 1
    ]
    bench.bar("reports", float(len(reports)), 0, higher_is_better=False)
    if not bench.quick:
        for name in ("coder", "ops"):
            bench.bar(f"{name}_inputs", inputs[name], INPUTS_WANTED)
    bench.finish(["genaccel"])
    if reports:
        sys.exit("\n\n".join(reports))


if __name__ == "__main__":
    main()
