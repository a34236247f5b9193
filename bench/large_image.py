# SPDX-License-Identifier: Apache-2.0
"""Time and memory of encoding and decoding large images with the default model, beside what the codec estimates.

    python bench/large_image.py [--quick] [--json FILE]

The picture is a mosaic of the held-out photographs at their own size: as much detail in each megapixel as they have.
Each measurement has a process of its own, of one thread. Memory is the peak of what the process holds (resident) while
it codes, and for the estimate, which leaves the weights out, what the peak is above the memory in use with the model
loaded. A quick run measures 4 megapixels and takes the bars of 24 from the record.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel.codec import EncodeOptions, ImageCodec
from genaccel.eval.held_out import held_out_photographs

SIZES = ((1024, 1024), (2048, 2048), (3000, 4000), (4000, 6000))
QUICK_SIZES = ((1024, 1024), (2048, 2048))
OPTIONS = {"encode": EncodeOptions(), "encode, rdo 0.02": EncodeOptions(rdo=0.02)}
# Of 24 megapixels, one thread.
TARGETS = dict.fromkeys(("decode_24mp_peak_GiB", "encode_24mp_peak_GiB"), 1.5)
_RECORD = Path(__file__).parent / "results" / "large_image.json"


class Measured(NamedTuple):
    """What one coding took.

    Attributes:
        seconds: CPU time.
        peak_mib: Largest resident memory of the process.
        growth_mib: How much more that is than before.
        estimate_mib: The codec's estimate of it.
    """

    data: bytes
    seconds: float
    peak_mib: float
    growth_mib: float
    estimate_mib: float


def mosaic(height: int, width: int) -> NDArray[np.uint8]:
    """The held-out photographs side by side in rows, uint8 ``[H, W, 3]``; every second one is mirrored."""
    photographs = itertools.cycle(held_out_photographs().values())
    image = np.empty((height, width, 3), np.uint8)
    row_height, number = 300, 0
    for top in range(0, height, row_height):
        left = 0
        while left < width:
            photograph = next(photographs)[:row_height, :: -1 if number % 2 else 1]
            cell = image[top : top + row_height, left : left + photograph.shape[1]]
            cell[...] = photograph[: cell.shape[0], : cell.shape[1]]
            left, number = left + photograph.shape[1], number + 1
    return image


def memory_mib(name: str) -> float:
    """A figure of ``/proc/self/status`` in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def measure(name: str, height: int, width: int, data: bytes | None) -> Measured:
    """Encode the mosaic of a size, or decode ``data``; in a process that has done nothing else."""
    torch.set_num_threads(1)
    codec = ImageCodec.from_pretrained()
    image = mosaic(height, width) if data is None else None
    codec.decode(codec.encode(np.zeros((64, 64, 3), np.uint8)))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory_mib("VmRSS")
    start = time.process_time()
    if image is not None:
        data = codec.encode(image, OPTIONS[name])
    else:
        assert data is not None
        codec.decode(data)
    seconds = time.process_time() - start
    peak = memory_mib("VmHWM")
    estimate = codec.estimate_memory_bytes(height, width, encoding=name != "decode")
    return Measured(data, seconds, peak, peak - before, estimate / 2**20)


def measure_size(bench: Bench, height: int, width: int) -> None:
    """A row for each direction at one size."""
    context = multiprocessing.get_context("spawn")
    data: bytes | None = None
    for name in (*OPTIONS, "decode"):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            file = data if name == "decode" else None
            measured = pool.submit(measure, name, height, width, file).result()
        data = data or measured.data  # decoded is the file that plain encoding made
        row: dict[str, Any] = {"what": name, "width": width, "height": height}
        bench.rows.append(
            row
            | {
                "file_bytes": len(measured.data),
                "cpu_seconds": measured.seconds,
                "peak_MiB": measured.peak_mib,
                "growth_MiB": measured.growth_mib,
                "estimate_MiB": measured.estimate_mib,
            }
        )


def main() -> None:
    """Measure all sizes."""
    bench = Bench.from_command_line("large_image", str(__doc__).partition("\n")[0])
    for size in QUICK_SIZES if bench.quick else SIZES:
        measure_size(bench, *size)
    largest = max(abs(row["estimate_MiB"] / row["growth_MiB"] - 1) for row in bench.rows)
    bench.bar("estimate_off_by_percent", 100 * largest, 25.0, higher_is_better=False)
    if bench.quick:
        print(bench.take_recorded_bars(TARGETS, _RECORD))
    else:
        peaks = {row["what"]: row["peak_MiB"] / 1024 for row in bench.rows[-len(OPTIONS) - 1 :]}
        decode, encode = peaks.pop("decode"), max(peaks.values())
        for (name, target), peak in zip(TARGETS.items(), (decode, encode), strict=True):
            bench.bar(name, peak, target, higher_is_better=False)
    bench.finish()


if __name__ == "__main__":
    main()
