# SPDX-License-Identifier: Apache-2.0
"""FID side by side with pytorch-fid: features of images, the Frechet distance, and memory over the number of images.

    python bench/eval.py [--quick] [--json FILE] [--images N]

Both sides read the same 256x256 JPEG files and run the same network with the same weights, block after
block, taking turns at being first. True weights are used if torch's cache has them; else random ones, which
cost the same.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel.eval._sets.frechet import frechet_distance
from genaccel.eval._sets.image_sources import FileImages
from genaccel.eval._sets.moments import Moments, Statistics
from genaccel.eval._sets.set_features import extract_features
from genaccel.eval.fid import load_inception
from genaccel.eval.held_out import held_out_photographs
from genaccel.models.torchvision_weights import find_weights
from genaccel.sampling.turns import seconds_in_turn

SIDE = 256
BLOCK = 50


def main() -> None:
    """Run the benchmark, or, as a child of itself, one measurement of memory."""
    if sys.argv[1:2] == ["--peak-memory"]:
        _print_peak_memory(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        return
    bench = Bench.from_command_line(
        "eval", __doc__.splitlines()[0], {"images": (int, 10_000, 24, "images for the features")}
    )
    warnings.filterwarnings("ignore", module="(torchvision|pytorch_fid|scipy)")
    with tempfile.TemporaryDirectory() as folder:
        num_images = bench.options["images"]
        files = _write_photographs(Path(folder) / "images", num_images)
        weights, origin = _weights(Path(folder))
        print(f"{num_images} images of {SIDE}x{SIDE}; {origin} weights", flush=True)
        _compare_features(bench, files, weights)
        _compare_distances(bench)
        _compare_memory(bench, files, weights)
    bench.finish(["torch", "torchvision", "pytorch-fid", "scipy", "numpy", "genaccel"])


def _write_photographs(folder: Path, count: int) -> list[Path]:
    """Random crops of the held-out photographs, as JPEG files."""
    folder.mkdir()
    photographs = list(held_out_photographs().values())
    random = np.random.default_rng(0)
    files = []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        top = random.integers(photograph.shape[0] - SIDE + 1)
        left = random.integers(photograph.shape[1] - SIDE + 1)
        crop = photograph[top : top + SIDE, left : left + SIDE][:, :: random.choice([-1, 1])]
        files.append(folder / f"{i:05}.jpg")
        Image.fromarray(np.ascontiguousarray(crop)).save(files[-1], quality=95)
    return files


def _weights(folder: Path) -> tuple[Path, str]:
    try:
        return find_weights("fid_inception"), "published"
    except (FileNotFoundError, ValueError):
        from torchvision.models import inception_v3

        torch.manual_seed(0)
        network = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
        path = folder / "random.pth"
        torch.save(network.state_dict(), path)
        return path, "random"


def _peer(weights: Path, dimensions: int = 2048) -> Any:
    """pytorch-fid's network with these weights, which it would otherwise download."""
    from pytorch_fid import inception

    inception.load_state_dict_from_url = lambda *_, **__: torch.load(weights, weights_only=True)
    return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[dimensions]])


def _quietly(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call pytorch-fid without its progress bar."""
    from pytorch_fid import fid_score

    fid_score.tqdm = lambda iterable: iterable
    return function(*arguments, **keywords)


def _compare_features(bench: Bench, files: list[Path], weights: Path) -> None:
    from pytorch_fid import fid_score

    extractor, peer = load_inception(weights), _peer(weights)
    features: dict[str, list[NDArray[Any]]] = {"genaccel": [], "pytorch-fid": []}
    seconds: dict[str, list[float]] = {"genaccel": [], "pytorch-fid": []}

    def ours(block: list[Path]) -> NDArray[Any]:
        found = extract_features(FileImages(name="", files=block), extractor, workers=0).features
        assert found is not None
        return found

    def theirs(block: list[Path]) -> NDArray[Any]:
        return _quietly(fid_score.get_activations, block, peer, BLOCK, 2048, "cpu", num_workers=0)

    sides = {"genaccel": ours, "pytorch-fid": theirs}
    size = min(BLOCK, max(len(files) // 3, 2))
    for side in sides.values():  # warm-up
        side(files[:2])
    for number, start in enumerate(range(0, len(files), size)):
        block = files[start : start + size]
        for name in sorted(sides, reverse=bool(number % 2)):
            begin = time.perf_counter()
            features[name].append(sides[name](block))
            seconds[name].append((time.perf_counter() - begin) / len(block))
    ratio = median(b / a for a, b in zip(seconds["genaccel"], seconds["pytorch-fid"], strict=True))
    values = {name: _distance_of_halves(np.concatenate(parts)) for name, parts in features.items()}
    for name in sides:
        bench.rows.append(
            {
                "what": f"features of {len(files)} images",
                "side": name,
                "seconds": median(seconds[name]) * len(files),
                "images_per_s": 1 / median(seconds[name]),
                "value": values[name],
            }
        )
    difference = abs(values["genaccel"] - values["pytorch-fid"])
    bench.bar("features_speed_vs_pytorch_fid", ratio, 1.0)
    bench.bar(
        "fid_relative_difference", difference / values["pytorch-fid"], 1e-5, higher_is_better=False
    )


def _distance_of_halves(features: NDArray[Any]) -> float:
    halves = []
    for half in (features[::2], features[1::2]):
        moments = Moments(half.shape[1])
        moments.update(torch.from_numpy(half))
        halves.append(moments.statistics())
    return frechet_distance(*halves)


def _compare_distances(bench: Bench) -> None:
    from pytorch_fid import fid_score

    # The quick run's 1024 features keep scipy's square root within its time.
    dimensions, count = (1024, 2500) if bench.quick else (2048, 10_000)
    random = np.random.default_rng(0)
    # Inception's features have a spectrum that falls like this.
    mixing = random.normal(size=(dimensions, dimensions)) * np.arange(1, dimensions + 1) ** -0.7
    sets = []
    for shift in (0.0, 0.02):
        x = random.normal(size=(count, dimensions)) @ mixing.T / 8 + shift
        sets.append(
            Statistics(
                mean=x.mean(0),
                covariance=np.cov(x, rowvar=False),
                provenance={"num_images": count},
            )
        )
    a, b = sets
    values: dict[str, float] = {}

    def ours() -> None:
        values["genaccel"] = frechet_distance(a, b)

    def theirs() -> None:
        values["pytorch-fid"] = float(
            fid_score.calculate_frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
        )

    sides = {"genaccel": ours, "pytorch-fid": theirs}
    times = seconds_in_turn(sides, 1 if bench.quick else 3)
    for name in sides:
        bench.rows.append(
            {
                "what": f"distance, {dimensions} features",
                "side": name,
                "seconds": times[name],
                "images_per_s": "",
                "value": values[name],
            }
        )
    bench.bar("square_root_speed_vs_pytorch_fid", times["pytorch-fid"] / times["genaccel"], 5.0)
    difference = abs(values["genaccel"] - values["pytorch-fid"])
    bench.bar("distance_difference", difference, 1e-6, higher_is_better=False)


def _compare_memory(bench: Bench, files: list[Path], weights: Path) -> None:
    """Peak memory of a process that reads few and many images.

    The first stage of the network costs little, so that many images take minutes; what could grow with
    their number (features, batches, names) is the same.
    """
    few, many = (150, 450) if bench.quick else (1000, 10_000)
    peaks = {}
    for count in (few, many):
        command = [sys.executable, __file__, "--peak-memory", files[0].parent, weights, count]
        done = subprocess.run(
            [str(part) for part in command], check=True, capture_output=True, text=True
        )
        peaks[count] = int(done.stdout) / 2**20
        bench.rows.append(
            {
                "what": f"peak MiB, {count} images",
                "side": "genaccel",
                "seconds": "",
                "images_per_s": "",
                "value": peaks[count],
            }
        )
    bench.bar("memory_growth_mib", peaks[many] - peaks[few], 16.0, higher_is_better=False)


def _print_peak_memory(folder: Path, weights: Path, count: int) -> None:
    available = sorted(folder.iterdir())
    files = [available[i % len(available)] for i in range(count)]
    extractor = load_inception(weights, dimensions=64)
    extract_features(FileImages(name="", files=files), extractor, workers=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
