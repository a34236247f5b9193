# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import Tensor

from genaccel.sensitivity.measure.output_sketch import OutputSketch

STEPS = 6


def _observe(sketch: OutputSketch, outputs: Tensor, **options) -> None:
    sketch.start_generation()
    for step, output in enumerate(outputs):
        sketch.observe(step, 0, 0, output, **options)


def _sketch(**options) -> OutputSketch:
    return OutputSketch(num_steps=STEPS, num_segments=1, num_tensors=1, **options)


def _exact(outputs: Tensor) -> np.ndarray:
    """Inner products of the outputs, summed over samples."""
    flat = outputs.double().flatten(1)
    return (flat @ flat.T).numpy()


def _walk(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(STEPS, *shape, generator=generator).cumsum(0)


def test_small_outputs_are_kept_as_they_are() -> None:
    first, second = _walk(2, 3, 5), _walk(1, 3, 5, seed=1)
    sketch = _sketch()
    _observe(sketch, first)
    _observe(sketch, second)
    np.testing.assert_allclose(sketch.gram[0, 0], _exact(first) + _exact(second), rtol=1e-6)


def test_streams_of_a_generation_add_up() -> None:
    outputs = _walk(2, 7)
    whole, halves = _sketch(), _sketch()
    _observe(whole, outputs)
    for step in range(STEPS):
        halves.observe(step, 0, 0, outputs[step, :1], stream="conditional")
        halves.observe(step, 0, 0, outputs[step, 1:], stream="unconditional")
    np.testing.assert_allclose(halves.gram, whole.gram, rtol=1e-12)


@pytest.mark.parametrize("channels", [16, 1152, 4000])
def test_lengths_of_any_combination_are_kept(channels: int) -> None:
    # One channel holds most of the energy, as in transformers, and outputs hardly differ.
    outputs = torch.ones(STEPS, 2, 80000 // channels, channels)
    outputs[..., 3] = 50.0
    outputs += 0.01 * _walk(2, 80000 // channels, channels)
    sketch = _sketch()
    _observe(sketch, outputs)
    exact, found = _exact(outputs), sketch.gram[0, 0].numpy()
    random = np.random.default_rng(0)
    weights = list(np.eye(STEPS))
    # Differences and parabolas, that cancel nearly all of the outputs.
    weights += [np.roll([1, -1, 0, 0, 0, 0], i) for i in range(STEPS - 1)]
    weights += [np.roll([-3, 3, -1, 1, 0, 0], i) for i in range(STEPS - 3)]
    weights += [w - w.mean() for w in random.normal(size=(5, STEPS))]
    for w in weights:
        # Three standard deviations of sqrt(2 / 1021).
        assert w @ found @ w == pytest.approx(w @ exact @ w, rel=0.14)


def test_sums_of_16_bit_outputs_lose_nothing() -> None:
    outputs = (_walk(1, 3000) * 50 + 100).half()
    low, high = _sketch(), _sketch()
    _observe(low, outputs)
    _observe(high, outputs.double())
    difference = np.array([0, 0, 1, -1, 0, 0])
    exact = difference @ high.gram[0, 0].numpy() @ difference
    assert difference @ low.gram[0, 0].numpy() @ difference == pytest.approx(exact, rel=1e-4)


def test_memory_does_not_grow_with_the_outputs() -> None:
    small, large = _sketch(size=101), _sketch(size=101)
    _observe(small, _walk(2, 101))
    _observe(large, _walk(2, 5000))
    assert large.bytes_held == small.bytes_held > 0
    large.start_generation()
    assert large.bytes_held == 0


def test_a_projection_is_always_the_same() -> None:
    grams = []
    for _ in range(2):
        sketch = _sketch(size=11)
        _observe(sketch, _walk(1, 300))
        grams.append(sketch.gram)
    assert torch.equal(*grams)
