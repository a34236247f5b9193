# SPDX-License-Identifier: Apache-2.0
"""The loop by a recipe of a few lines: schedule, precision, what a run says, and which folders it refuses."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from genaccel.training import precision
from genaccel.training.loop import LoopConfig, TrainingLoop, averaged_weights, warmup_cosine
from genaccel.training.run_folder import RunFolder

LOOP = LoopConfig(steps=12, batch_size=3, learning_rate=1e-2, warmup_steps=0)


class Line(TrainingLoop):
    """Fits a line to the numbers of the samples."""

    recipe = "line"

    def __init__(self, run, loop=LOOP, width=1):
        torch.manual_seed(loop.seed)
        super().__init__(nn.Linear(width, 1), loop, run=RunFolder(run), options={}, cpu=True)

    def setup(self):
        self.was_set_up = True

    def batch(self, numbers):
        return torch.tensor([[float(n % 7)] for n in numbers])

    def loss(self, batch, generator):
        noise = torch.randn(batch.shape, generator=generator)
        error = (self.model(batch) - 2 * batch - 0.1 * noise).square().mean()
        return error, {"error": error}

    def export(self):
        return "nothing"


class OtherLine(Line):
    recipe = "other-line"


def test_the_rate_rises_and_falls():
    rates = [
        warmup_cosine(s, steps=100, peak=2.0, warmup_steps=10, final_ratio=0.1) for s in range(101)
    ]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(1.1)  # half way down
    assert rates[100] == pytest.approx(0.2)
    assert warmup_cosine(1000, steps=100, peak=2.0, warmup_steps=10, final_ratio=0.1) == rates[100]


def test_a_run_may_be_all_warm_up():
    rate = warmup_cosine(3, steps=4, peak=1.0, warmup_steps=8, final_ratio=0.1)
    assert rate == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ({"final_learning_rate_ratio": 0.0}, r"final_learning_rate_ratio must be in \(0, 1\]"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\)"),
        ({"checkpoint_minutes": float("nan")}, "checkpoint_minutes must be above 0"),
        ({"mixed_precision": "int4"}, 'mixed_precision must be "no", "fp16", "bf16" or "auto"'),
    ],
)
def test_config_names_the_allowed_range(change, message):
    with pytest.raises(ValueError, match=message):
        replace(LOOP, **change)


def test_a_run_says_its_precision_and_its_speed(tmp_path, capsys):
    Line(tmp_path).train()
    said = capsys.readouterr().err
    assert "training on cpu in fp32" in said
    assert "samples/s" in said
    resumed = Line(tmp_path)
    assert resumed.step == 12
    resumed.train()  # nothing is left to do, and no speed to tell
    assert "samples/s" not in capsys.readouterr().err


def test_training_fits_and_averages(tmp_path):
    run = Line(tmp_path, replace(LOOP, steps=400, learning_rate=5e-2, ema_decay=0.9))
    run.train()
    averaged = averaged_weights(run.run, nn.Linear(1, 1))
    assert float(averaged.weight.detach()) == pytest.approx(2, abs=0.1)


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize(
    ("features", "chosen"),
    [("avx2 avx512f", "no"), ("avx512_bf16", "bf16"), ("amx_bf16 amx_tile", "bf16")],
)
def test_auto_takes_what_the_processor_is_fast_in_and_keeps_it(
    features, chosen, tmp_path, monkeypatch
):
    monkeypatch.setattr(precision, "_cpu_features", lambda: set(features.split()))
    auto = replace(LOOP, mixed_precision="auto")
    Line(tmp_path, auto).save()
    options = json.loads((tmp_path / "training.json").read_text())
    assert options["mixed_precision"] == chosen
    monkeypatch.setattr(precision, "_cpu_features", lambda: {"avx512_bf16"} - set(features.split()))
    assert Line(tmp_path, auto).config.mixed_precision == chosen


def test_a_run_of_another_recipe_or_model_is_refused(tmp_path):
    Line(tmp_path / "run").save()
    with pytest.raises(ValueError, match="holds a run of line, not of other-line"):
        OtherLine(tmp_path / "run")
    with pytest.raises(ValueError, match="holds another model than line trains"):
        Line(tmp_path / "run", width=2)
    assert Line(tmp_path / "run").step == 0
