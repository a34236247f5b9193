# SPDX-License-Identifier: Apache-2.0
"""Evaluations for the tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genaccel.eval.report import write_report

PSNR = {"key": "psnr", "title": "PSNR", "unit": "dB", "higher_is_better": True}
# The direction of a user's own function is not known.
OWN = {"key": "own", "title": "own", "unit": "", "higher_is_better": None}
LPIPS = {"key": "lpips_vgg", "title": "LPIPS (vgg)", "unit": "", "higher_is_better": False}
METRICS = {"psnr": PSNR, "lpips_vgg": LPIPS}
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>&\"'"


def make_run(kind: str, **content: Any) -> dict[str, Any]:
    """What every run has, and the content of this one."""
    return {
        "genaccel_eval": 1,
        "kind": kind,
        "label": f"a {kind} run",
        "environment": {"torch": "2.11", "date": "2026-01-01"},
        "settings": {"seed": 0, "nested": {"a": [1, 2]}, "nothing": None, "convert": True},
        **content,
    }


def rate_distortion_run(folder: Path) -> dict[str, Any]:
    """Three codecs at four points, and two pictures in the folder."""
    random = np.random.default_rng(0)
    pictures = []
    for name, (height, width) in {"first": (200, 320), "second": (300, 200)}.items():
        coarse = random.integers(0, 256, (5, 8, 3), dtype=np.uint8)
        original = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        original.save(folder / f"{name}.png")
        versions = []
        for codec, quality in (("JPEG", 5), ("JPEG", 50), ("WebP", 20)):
            file = f"{name}-{codec}-{quality}.png"
            noise = random.normal(0, 30 - quality / 2, (height, width, 3))
            noisy = np.clip(np.asarray(original) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / file)
            versions.append(
                {
                    "label": f"{codec}, quality {quality}",
                    "codec": codec,
                    "file": file,
                    "bits_per_pixel": quality / 50,
                    "metrics": {"psnr": 20 + quality / 5, "lpips_vgg": None},
                }
            )
        pictures.append({"name": name, "original": f"{name}.png", "versions": versions})
    codecs = [
        {
            "codec": codec,
            "points": [
                {
                    "setting": f"quality {10 * step}",
                    "bits_per_pixel": 0.1 * step**2,
                    "num_bytes": 1234 * step,
                    "encode_seconds": 0.01,
                    "decode_seconds": None,
                    "metrics": {"psnr": 24 + gain + step, "lpips_vgg": 0.4 / step},
                    "images": {"first": {"bits_per_pixel": 0.1, "psnr": None, "lpips_vgg": 0.2}},
                }
                for step in (1, 2, 3, 4)
            ],
        }
        for gain, codec in enumerate(("JPEG", "WebP", "AVIF"))
    ]
    codecs[0]["points"][0]["metrics"]["psnr"] = None  # type: ignore[index]
    rate = {"codec": "WebP", "anchor": "JPEG", "reason": ""}
    return make_run(
        "rate_distortion",
        metrics=METRICS,
        codecs=codecs,
        bd_rates=[
            {**rate, "metric": "psnr", "percent": -23.456, "interval": [25.5, 31.0]},
            {
                **rate,
                "metric": "lpips_vgg",
                "percent": None,
                "interval": None,
                "reason": "the curves do not overlap",
            },
        ],
        pictures=pictures,
    )


def speed_run() -> dict[str, Any]:
    """Two sides that were measured and one that was not."""
    side = {"seconds": [1.9, 2.0, 2.2], "flops": 2_500_000_000, "peak_bytes": 1 << 31}
    return make_run(
        "speed",
        metrics={"psnr": PSNR, "own": OWN},
        sides=[
            {**side, "name": "plain", "median_seconds": 2.0, "quality": {"psnr": None}},
            {**side, "name": "fast", "median_seconds": 0.8, "quality": {"psnr": 31.0, "own": 7.5}},
            {"name": "failed", "median_seconds": None, "flops": None, "peak_bytes": None},
        ],
    )


def paired_run(**changes: Any) -> dict[str, Any]:
    """PSNR of two pairs, one of them without a finite value."""
    images = {"kodim01": 31.0, "kodim02": None}
    content = {"metric": PSNR, "mean": 31.0, "images": images, "skipped": {"odd.png": "too deep"}}
    return make_run("paired", **{**content, **changes})


def set_run() -> dict[str, Any]:
    """A distance between two sets."""
    return make_run(
        "set",
        metric={**LPIPS, "key": "fid", "title": "FID"},
        value=12.345,
        num_images=[1000, None],
        details={"mean_term": 1.5},
        warnings=["too few images"],
        skipped={},
    )


def write_run(folder: Path, name: str, content: Any) -> Path:
    """Put an object or a text into a file."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_all_kinds(folder: Path) -> Path:
    """A page with a run of each kind, and its JSON files and pictures beside it."""
    runs = [
        write_run(folder, "rate.json", rate_distortion_run(folder)),
        write_run(folder, "speed.json", speed_run()),
        write_run(folder, "paired.json", paired_run()),
        write_run(folder, "set.json", set_run()),
    ]
    write_report(runs, folder / "report.html", title="All kinds")
    return folder / "report.html"
