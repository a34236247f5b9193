# SPDX-License-Identifier: Apache-2.0
import json
import warnings

import numpy as np
import pytest
import torch
from tiny_codec import TINY_EFFICIENT as TINY

from genaccel.codec.training import autoencoder as training
from genaccel.codec.training.autoencoder import CodecTrainer, learning_rate_at, load_trained
from genaccel.codec.training.autoencoder_config import CodecTrainingConfig
from genaccel.codec.training.export import export_model
from genaccel.codec.training.index_statistics import (
    bits_per_pixel,
    count_indices,
    set_index_cdfs,
    static_bits,
)
from genaccel.models.autoencoder import PRESETS, Autoencoder
from genaccel.training.codebook_upkeep import CodebookUpkeep
from genaccel.training.distortion import grid_error
from genaccel.training.loop import NonFiniteLossError


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch):
    presets = {**PRESETS, "tiny": TINY}
    monkeypatch.setattr(training, "PRESETS", presets)
    monkeypatch.setattr("genaccel.codec.training.autoencoder_config.PRESETS", presets)


def config(**changes):
    options = {
        "preset": "tiny",
        "steps": 8,
        "batch_size": 2,
        "crop_size": 32,
        "perceptual_net": "none",
        "warmup_steps": 2,
        "restart_every": 2,
        "log_every": 1,
    }
    return CodecTrainingConfig(**{**options, **changes})


def run_steps(trainer, last):
    """Train, and stop as if the process were ended after step ``last``."""

    class Ended(Exception):
        pass

    def stop(step):
        if step == last:
            trainer.save_checkpoint()
            raise Ended

    with pytest.raises(Ended):
        trainer.train(stop)


def checkpoint(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def assert_same(a, b):
    if torch.is_tensor(a):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_resumed_run_equals_an_uninterrupted_one(photographs, tmp_path):
    whole = tmp_path / "whole"
    CodecTrainer(config(), data=photographs, run=whole, cpu=True).train()
    parts = tmp_path / "parts"
    run_steps(CodecTrainer(config(), data=photographs, run=parts, cpu=True), 3)
    resumed = CodecTrainer(config(), data=photographs, run=parts, cpu=True)
    assert resumed.step == 3
    resumed.train()
    assert_same(checkpoint(whole), checkpoint(parts))


def test_loss_falls_and_most_code_words_come_into_use(photographs, tmp_path):
    trainer = CodecTrainer(
        config(steps=120, learning_rate=5e-3, restart_every=10, mse_weight=8.0),
        data=photographs,
        run=tmp_path / "run",
        cpu=True,
    )
    x = next(trainer._batches())
    before = float(trainer.loss(x)[1]["mse"].detach())
    trainer.train()
    after = float(trainer.loss(x)[1]["mse"].detach())
    assert after < 0.7 * before
    assert int((trainer.upkeep.usage > 0.05 * trainer.upkeep.usage.mean()).sum()) >= 16


def test_other_options_in_the_same_folder_are_refused(photographs, tmp_path):
    CodecTrainer(config(), data=photographs, run=tmp_path / "run", cpu=True)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.0004 -> 0\.001"):
        CodecTrainer(config(learning_rate=1e-3), data=photographs, run=tmp_path / "run", cpu=True)


def test_non_finite_loss_stops_and_keeps_the_checkpoint(photographs, tmp_path):
    run = tmp_path / "run"
    run_steps(CodecTrainer(config(), data=photographs, run=run, cpu=True), 2)
    trainer = CodecTrainer(config(), data=photographs, run=run, cpu=True)
    with torch.no_grad():
        trainer.model.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="at step 2"):
        trainer.train()
    assert checkpoint(run)["step"] == 2


def test_export_codes_the_training_indices_below_the_uniform_rate(photographs, tmp_path):
    run, out = tmp_path / "run", tmp_path / "model"
    CodecTrainer(config(), data=photographs, run=run, cpu=True).train()
    report = export_model(run, out, data=photographs, max_images=2)
    model = Autoencoder.from_pretrained(out)
    uniform = sum(5 / stride**2 for stride in model.params.strides)  # log2(32) bits a token
    assert 0 < report.bits_per_pixel < uniform
    assert json.loads((out / "config.json").read_text())["codebook_size"] == 32
    for a, b in zip(load_trained(run).half().float().parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_export_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no training run"):
        export_model(tmp_path, tmp_path / "out", data=tmp_path)


def test_index_statistics_count_every_token_and_code_each_symbol():
    model = Autoencoder(TINY).eval()
    maps = [
        np.random.default_rng(s).integers(0, 20, (48 // s, 96 // s)).astype(np.int32)
        for s in model.params.strides
    ]
    counts = count_indices(model.params, maps)
    assert counts.sum(1).tolist() == [48 * 96 // s**2 for s in model.params.strides]
    assert counts[0].tolist() == [int((maps[0] == k).sum()) for k in range(32)]
    set_index_cdfs(model, counts)
    assert bool((model.index_cdfs.diff(dim=1) >= 1).all())
    entropy = 0.0
    for row, stride in zip(counts.double(), model.params.strides, strict=True):
        p = row / row.sum()
        entropy += float(-(p * p.clamp_min(1e-300).log2()).sum()) / stride**2
    rate = bits_per_pixel(model.params, static_bits(model, counts), counts.sum(1))
    assert entropy <= rate <= entropy * 1.5


def test_learning_rate_warms_up_and_decays():
    options = config(steps=100, warmup_steps=10, learning_rate=1e-3, final_learning_rate_ratio=0.1)
    rates = [learning_rate_at(step, options) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[9] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)


def test_upkeep_restarts_only_dead_code_words():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    upkeep = CodebookUpkeep(8, dead_below=0.05, seed=0)
    weight = torch.nn.Parameter(torch.eye(8))
    optimizer = torch.optim.Adam([weight])
    upkeep.count([torch.arange(6).repeat(10)], accelerator)  # 6 and 7 are never used
    before = weight.detach().clone()
    features = [torch.randn(1, 8, 2, 2)]
    assert upkeep.restart(weight, optimizer, features, step=0) == 2
    assert torch.equal(weight[:6], before[:6])
    assert not torch.equal(weight[6:], before[6:])
    torch.testing.assert_close(weight[6:].norm(dim=1), torch.ones(2))
    assert upkeep.restart(weight, optimizer, features, step=1) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "huge"}, "preset must be one of"),
        ({"crop_size": 40}, "multiple of 16"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"perceptual_fraction": 1.5}, r"in \(0, 1\]"),
        ({"ema_decay": 1.0}, r"in \[0, 1\)"),
        ({"mixed_precision": "int4"}, "mixed_precision must be"),
        ({"mse_weight": float("nan")}, "mse_weight must not be negative"),
    ],
)
def test_config_names_the_allowed_range(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_config_from_dict_rejects_unknown_keys():
    with pytest.raises(ValueError, match="unknown training options"):
        CodecTrainingConfig.from_dict({"stepz": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CodecTrainingConfig.from_dict(config().to_dict()) == config()


def test_a_grid_is_told_from_other_errors():
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(8, 8, generator=generator)
    grid = pattern.repeat(16, 16).expand(2, 3, -1, -1)  # period 8
    power = (pattern - pattern.mean()).square().mean()
    torch.testing.assert_close(grid_error(grid, 8), power)
    # As strong, without a period: what is left of it is one in 64.
    noise = torch.randn(2, 3, 128, 128, generator=generator)
    assert float(grid_error(noise, 8)) == pytest.approx(1 / 64, rel=0.1)
    assert float(grid_error(torch.ones(1, 3, 100, 70), 8)) == 0
    assert float(grid_error(torch.ones(1, 3, 4, 100), 8)) == 0
    # Smooth errors have no pattern, and sizes need not be multiples of the window.
    ramp = torch.linspace(0, 1, 200).expand(1, 1, 72, 200)
    assert float(grid_error(ramp, 8)) < 1e-3
