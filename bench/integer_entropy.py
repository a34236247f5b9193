# SPDX-License-Identifier: Apache-2.0
"""The integer entropy model on one core: speed on a whole image, and what rounding costs in rate.

Speed: the windows of a 768x512 image (24 of 336 tokens), preset "small" with random weights, against the float model.
Times are CPU times of one thread, the best of some runs: other work on the machine does not count. Rate: a smaller model
trained on smooth random fields, as exported without and with training for the rounding.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel import ops
from genaccel.codec.coding.entropy_index_coder import EntropyIndexCoder
from genaccel.models.integer_entropy_model import IntegerEntropyModel
from genaccel.models.integer_export import integer_model_of, quantize
from genaccel.models.masked_entropy_model import (
    PRESETS,
    MaskedEntropyModel,
    MaskedEntropyParams,
    code_length_bits,
)
from genaccel.models.quantization_aware import QuantizationAwareEntropyModel
from genaccel.sampling.costs import cost_of_call

MAP_SHAPES = ((16, 24), (32, 48), (64, 96))  # strides 32, 16, 8 of 768x512 pixels
RATE_PARAMS = MaskedEntropyParams(
    codebook_size=256,
    codebook_dim=4,
    num_scales=3,
    width=64,
    layers=3,
    heads=2,
    feed_forward_width=192,
    dropout=0.0,
    attends_own_slice=True,
    first_slice_without_position=False,
)


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """CPU time of the fastest of some calls."""
    run()
    return min(cost_of_call(run, torch.device("cpu")).seconds for _ in range(repeats))


def random_model(params: MaskedEntropyParams) -> tuple[MaskedEntropyModel, Tensor]:
    """A model whose every parameter matters, and a codebook."""
    model = MaskedEntropyModel(params).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model, functional.normalize(torch.randn(params.codebook_size, params.codebook_dim))


def measure_linear(bench: Bench, repeats: int) -> None:
    """Products per second of the layers, for the 384 tokens of one decoder step."""
    rates = []
    for inputs, outputs, bits in ((128, 384, 8), (128, 768, 8), (384, 128, 32), (128, 1024, 32)):
        x = torch.randint(-128, 128, (384, inputs), dtype=torch.int8)
        weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
        multiplier = torch.full((outputs,), 2**30, dtype=torch.int32)
        floats, float_weight = x.float(), weight.float()

        def integer(
            x: Tensor = x, w: Tensor = weight, m: Tensor = multiplier, bits: int = bits
        ) -> None:
            for _ in range(10):
                ops.integer_linear(x, w, m, 44, bits)

        def single(x: Tensor = floats, w: Tensor = float_weight) -> None:
            for _ in range(10):
                functional.linear(x, w)

        products = 10 * 384 * inputs * outputs / 1e9
        ours = products / best_seconds(integer, repeats)
        rates.append(ours)
        plain = products / best_seconds(single, repeats)
        add_row(bench, f"linear 384x{inputs}x{outputs} to int{bits}", ours, plain, "GMAC/s")
    bench.bar("integer_linear_GMAC_s", min(rates), 30.0)


def add_row(bench: Bench, what: str, integer: float, plain: float | None, unit: str) -> None:
    """One line of the table."""
    bench.rows.append({"what": what, "integer": integer, "float32": plain, "unit": unit})


def all_steps(model: MaskedEntropyModel | IntegerEntropyModel, tokens: Tensor) -> None:
    """All slices one after the other, without any coding; tokens are code vectors, or indices of the integer model."""
    state: Any = model.begin(len(tokens))
    previous: Tensor | None = None
    for number in range(model.slice_order.num_slices):
        model.step(state, previous)
        previous = tokens[:, model.tokens_of_slice(number)]


def measure_image(bench: Bench, repeats: int) -> None:
    """A whole image: the network alone, and with tables and range coder."""
    params = PRESETS["small"]
    model, codebook = random_model(params)
    indices = torch.randint(params.codebook_size, (24, params.slice_order.num_tokens))
    codes = codebook[indices]
    integers = quantize(model, codebook, indices[:4])
    with torch.no_grad():
        for what, ours, plain in (
            ("network, all tokens at once", lambda: integers(indices), lambda: model(codes)),
            (
                "network, 28 steps",
                lambda: all_steps(integers, indices),
                lambda: all_steps(model, codes),
            ),
        ):
            add_row(
                bench,
                what,
                1e3 * best_seconds(ours, repeats),
                1e3 * best_seconds(plain, repeats),
                "ms",
            )
    generator = np.random.default_rng(0)
    maps = [generator.integers(0, params.codebook_size, shape) for shape in MAP_SHAPES]
    coder = EntropyIndexCoder(integers)
    payload = coder.encode(maps)
    decoded = coder.decode(payload, MAP_SHAPES)
    if not all(np.array_equal(a, b) for a, b in zip(maps, decoded, strict=True)):
        raise AssertionError("the decoder does not give the indices back")
    encode = 1e3 * best_seconds(lambda: coder.encode(maps), repeats)
    decode = 1e3 * best_seconds(lambda: coder.decode(payload, MAP_SHAPES), repeats)
    add_row(bench, "encode 768x512", encode, None, "ms")
    add_row(bench, "decode 768x512", decode, None, "ms")
    bench.bar("integer_entropy_encode_ms", encode, 400.0, higher_is_better=False)
    bench.bar("integer_entropy_decode_ms", decode, 400.0, higher_is_better=False)


def smooth_fields(codebook: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Nearest codes ``[B, L]`` of smooth random fields, each scale the mean of the next."""
    sides = RATE_PARAMS.slice_order.grid_sides
    coarse = torch.randn(batch, codebook.shape[1], 4, 4, generator=generator)
    field = functional.interpolate(coarse, size=sides[-1], mode="bicubic")
    field = field + 0.2 * torch.randn(field.shape, generator=generator)
    rows = [
        functional.adaptive_avg_pool2d(field, side).flatten(2).transpose(1, 2) for side in sides
    ]
    return torch.cat([(r @ codebook.T).argmax(dim=2) for r in rows], dim=1)


def train(
    network: nn.Module,
    parameters: Iterable[nn.Parameter],
    codebook: Tensor,
    steps: int,
    rate: float,
    generator: torch.Generator,
) -> None:
    """Least code length of fresh fields."""
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (1 - step / steps)
        indices = smooth_fields(codebook, 4, generator)
        loss = code_length_bits(network(codebook[indices]), indices).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


def measure_rate(bench: Bench, steps: int) -> None:
    """Bits per token of a model trained for a moment: float, and what its integer forms make of a file."""
    generator = torch.Generator().manual_seed(0)
    codebook = functional.normalize(torch.randn(RATE_PARAMS.codebook_size, 4, generator=generator))
    model = MaskedEntropyModel(RATE_PARAMS)
    train(model, model.parameters(), codebook, steps, 5e-3, generator)
    calibration = smooth_fields(codebook, 8, generator)
    test = smooth_fields(codebook, 24, generator)
    plain_model = copy.deepcopy(model)
    aware = QuantizationAwareEntropyModel(model, codebook[calibration])
    for what, training in (("as exported", 0), ("after training for it", steps // 4)):
        if training:  # the float model gets the same steps on the same fields
            for network in (plain_model, aware):
                fields = torch.Generator().manual_seed(1)
                train(network, network.parameters(), codebook, training, 5e-4, fields)
            aware.calibrate(codebook[calibration])
        with torch.no_grad():
            plain = float(code_length_bits(plain_model(codebook[test]), test).mean())
        coder = EntropyIndexCoder(integer_model_of(aware, codebook))
        maps = [m[0].numpy() for m in coder.grid(MAP_SHAPES).merge(test)]
        bits = 8 * len(coder.encode(maps)) / test.numel()
        add_row(bench, f"file, {what}", bits, plain, "bits/token")
        name = "trained" if training else "exported"
        bench.bar(
            f"integer_entropy_rate_cost_{name}_percent",
            100 * (bits / plain - 1),
            2.0,
            higher_is_better=False,
        )


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "integer_entropy",
        "Integer entropy model: speed of one core and cost in rate.",
        {"steps": (int, 300, 60, "training steps of the model whose rate is measured")},
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    repeats = 3 if bench.quick else 7
    measure_linear(bench, 5 * repeats)
    measure_image(bench, repeats)
    measure_rate(bench, bench.options["steps"])
    bench.finish(["genaccel", "torch"])


if __name__ == "__main__":
    main()
