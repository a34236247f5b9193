# SPDX-License-Identifier: Apache-2.0
"""Batches that nothing stops: small files, a hundredth of each kind of fault, and workers that are killed at random.

    python bench/batch.py [--quick] [--json FILE] [--files N]

``genaccel encode`` with two workers, one of which is killed after every hundred files. Every good file has to be
there at the end and every bad one named, with exit code 6 and memory that does not grow.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel.codec.format.bitstream import Bitstream
from genaccel.models.autoencoder import Autoencoder, AutoencoderParams
from genaccel.models.efficient_backbone import EfficientParams

_SIDE = 16  # pixels
_FILES_PER_KILL = 100
_FILES_PER_FOLDER = 250
_WORKERS = 2
_MIB = 2**20
# Of the main process, from a tenth of the files to the end: its lists grow by nothing once they are made.
_MOST_GROWTH_MIB = 8.0
_MODEL = AutoencoderParams(
    codebook_size=32,
    codebook_dim=4,
    backbone=EfficientParams(
        widths=(16, 16),
        encoder_blocks=(1, 1),
        decoder_widths=(16, 16),
        decoder_blocks=(1, 1),
        tail_widths=(8, 8, 4),
    ),
)


def _text(path: Path, _: bytes, __: Path) -> None:
    path.write_text("no image")


def _empty(path: Path, _: bytes, __: Path) -> None:
    path.touch()


def _cut(path: Path, png: bytes, _: Path) -> None:
    path.write_bytes(png[: len(png) // 2])


def _vast(path: Path, png: bytes, _: Path) -> None:
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
    path.write_bytes(png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:])


def _transparent(path: Path, _: bytes, __: Path) -> None:
    Image.new("RGBA", (_SIDE, _SIDE), (1, 2, 3, 4)).save(path)


def _deep(path: Path, _: bytes, __: Path) -> None:
    Image.fromarray(np.full((_SIDE, _SIDE), 40_000, np.uint16)).save(path)


def _dead_link(path: Path, _: bytes, __: Path) -> None:
    path.symlink_to("nothing.png")


def _circle(path: Path, _: bytes, __: Path) -> None:
    path.symlink_to(path.name)


def _folder_in_the_way(path: Path, png: bytes, target: Path) -> None:
    path.write_bytes(png)
    target.mkdir(parents=True)


def _file_for_a_folder(path: Path, png: bytes, target: Path) -> None:
    (path.parent / path.stem).mkdir()
    (path.parent / path.stem / path.name).write_bytes(png)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix("").touch()


_FAULTS: dict[str, Callable[[Path, bytes, Path], None]] = {
    "text": _text,
    "empty": _empty,
    "cut": _cut,
    "vast": _vast,
    "transparent": _transparent,
    "deep": _deep,
    "dead-link": _dead_link,
    "circle": _circle,
    "folder-in-the-way": _folder_in_the_way,
    "file-for-a-folder": _file_for_a_folder,
}


def make_batch(photos: Path, files: Path, count: int) -> tuple[dict[str, str], dict[str, str]]:
    """Write a batch, and what is in the way of its results.

    Returns:
        Result of each good file, and fault of each bad one, by path.
    """
    generator = np.random.default_rng(0)
    kinds = list(_FAULTS)
    good: dict[str, str] = {}
    bad: dict[str, str] = {}
    for i in range(count):
        folder = photos / f"{i // _FILES_PER_FOLDER:03}"
        folder.mkdir(parents=True, exist_ok=True)
        place = i % 100
        kind = kinds[place // 2] if place % 2 and place // 2 < len(kinds) else None
        # Names of another encoding are as good as any.
        ending = b"\xff" if place == 90 else b""
        path = folder / os.fsdecode(b"%s-%05d%s.png" % ((kind or "good").encode(), i, ending))
        target = files / path.relative_to(photos).with_suffix(".gac")
        Image.fromarray(generator.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)).save(path)
        if kind is None:
            good[str(path)] = str(target)
            continue
        png = path.read_bytes()
        path.unlink()
        _FAULTS[kind](path, png, target)
        bad[
            str(
                path
                if not (path.parent / path.stem).is_dir()
                else path.parent / path.stem / path.name
            )
        ] = kind
    return good, bad


def _workers_of(process_id: int) -> list[int]:
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    found = []
    for child in children:
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
        except FileNotFoundError:
            continue
    return found


def _resident_mib(process_id: int) -> float:
    try:
        pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def run_batch(photos: Path, files: Path, model: Path) -> dict[str, Any]:
    """Encode it, with a worker killed from time to time; JSON lines, exit code, kills and memory."""
    command = [sys.executable, "-m", "genaccel.cli", "encode", str(photos), "--out-dir", str(files)]
    command += ["--model", str(model), "--jobs", str(_WORKERS), "--json", "--threads", "2"]
    chance = random.Random(0)
    lines: list[dict[str, Any]] = []
    main_mib: list[float] = []
    worker_mib: list[float] = []
    kills = 0
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(json.loads(line))
            if len(lines) % _FILES_PER_KILL == 0:
                main_mib.append(_resident_mib(process.pid))
            # What cannot be read is reported before there are workers; kills are made up for then.
            if len(lines) >= (kills + 1) * _FILES_PER_KILL and (
                workers := _workers_of(process.pid)
            ):
                worker_mib += [_resident_mib(worker) for worker in workers]
                try:
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    kills += 1
                except ProcessLookupError:
                    continue
        code = process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return {
        "lines": lines,
        "code": code,
        "kills": kills,
        "main_mib": main_mib,
        "worker_mib": worker_mib,
        "said": said,
    }


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "batch",
        "Batches that nothing stops.",
        {"files": (int, 10_000, 300, "files of the batch")},
    )
    with tempfile.TemporaryDirectory() as folder:
        photos, files, model = (Path(folder) / name for name in ("photos", "files", "model"))
        torch.manual_seed(0)
        Autoencoder(_MODEL).save_pretrained(model)
        good, bad = make_batch(photos, files, bench.options["files"])
        start = time.perf_counter()
        found = run_batch(photos, files, model)
        seconds = time.perf_counter() - start

        done = Counter(line["input"] for line in found["lines"] if line["status"] == "ok")
        failed = Counter(line["input"] for line in found["lines"] if line["status"] == "error")
        whole = 0
        for source, target in good.items():
            if done[source] == 1 and not failed[source]:
                whole += Bitstream.from_bytes(Path(target).read_bytes()).width == _SIDE
        named = sum(failed[source] == 1 and not done[source] for source in bad)
        left = sum(path.name.endswith(".partial") for path in files.rglob(".*"))
        extra = len(found["lines"]) - len(good) - len(bad)

    by_kind = Counter(bad.values())
    for kind, count in by_kind.items():
        missed = sum(failed[source] != 1 for source, k in bad.items() if k == kind)
        bench.rows.append({"fault": kind, "files": count, "not_named": missed})
    main_mib = found["main_mib"] or [0.0]
    early = main_mib[len(main_mib) // 10]
    bench.tables["Run"] = [
        {
            "files": bench.options["files"],
            "seconds": seconds,
            "killed": found["kills"],
            "exit_code": found["code"],
            "main_MiB": main_mib[-1],
            "largest_worker_MiB": max(found["worker_mib"], default=0.0),
        }
    ]
    if found["code"] != 6:
        print(found["said"][-2000:], file=sys.stderr)
    bench.bar("good_files_not_done", len(good) - whole, 0, higher_is_better=False)
    bench.bar("bad_files_not_named", len(bad) - named, 0, higher_is_better=False)
    bench.bar("reports_too_many", abs(extra), 0, higher_is_better=False)
    bench.bar("exit_code_is_6", float(found["code"] == 6), 1)
    bench.bar("workers_killed", found["kills"], len(found["lines"]) // _FILES_PER_KILL - 1)
    bench.bar("half_written_files", left, 0, higher_is_better=False)
    bench.bar("memory_growth_mib", main_mib[-1] - early, _MOST_GROWTH_MIB, higher_is_better=False)
    bench.finish(["torch"])


if __name__ == "__main__":
    main()
