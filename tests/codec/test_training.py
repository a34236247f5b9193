# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from same_state import assert_same
from tiny_codec import TINY_EFFICIENT as TINY

from genaccel.codec.training.autoencoder import AutoencoderTraining
from genaccel.codec.training.export import export_model
from genaccel.codec.training.index_statistics import (
    bits_per_pixel,
    count_indices,
    set_index_cdfs,
    static_bits,
)
from genaccel.codec.training.stage_config import AutoencoderTrainingConfig
from genaccel.codec.training.trained_networks import load_run
from genaccel.models.autoencoder import PRESETS, Autoencoder
from genaccel.training.codebook_upkeep import CodebookUpkeep
from genaccel.training.crops import CropConfig
from genaccel.training.distortion import DistortionWeights, grid_error
from genaccel.training.loop import LoopConfig, NonFiniteLossError

# What commit 5ecd689 wrote beside a checkpoint.
FORMER = Path(__file__).with_name("former_training.json")

LOOP = LoopConfig(steps=8, batch_size=2, warmup_steps=2, log_every=1)
CONFIG = AutoencoderTrainingConfig(
    crops=CropConfig(crop_size=32),
    distortion=DistortionWeights(perceptual_net="none"),
    restart_every=2,
)


@pytest.fixture
def training(photographs):
    """Makes a run with random weights, always the same."""

    def make(run, loop=LOOP, config=CONFIG, **options):
        torch.manual_seed(loop.seed)
        network = Autoencoder(TINY)
        return AutoencoderTraining(
            network, config, loop, data=photographs, run=run, cpu=True, **options
        )

    return make


def stopped(training, last):
    """Train, and stop as if the process were ended after step ``last``."""
    while training.step < last:
        training._update()
    training.save()


def checkpoint(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def test_resumed_run_equals_an_uninterrupted_one(training, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training(whole).train()
    stopped(training(parts), 3)
    resumed = training(parts)
    assert resumed.step == 3
    resumed.train()
    assert_same(checkpoint(whole), checkpoint(parts))


def test_a_run_of_a_former_version_is_resumed(training, tmp_path, monkeypatch):
    """Its options were one flat table, and its stage had no name or another one."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training(whole).train()
    stopped(training(parts), 3)
    former = json.loads(FORMER.read_text())
    for stage in ({}, {"stage": "tokenizer"}):
        (parts / "training.json").write_text(json.dumps(former | stage))
        assert training(parts).step == 3
        with pytest.raises(ValueError, match=r"training\.distortion\.mse: 1\.0 -> 2\.0"):
            training(
                parts,
                config=replace(CONFIG, distortion=replace(CONFIG.distortion, mse=2.0)),
            )
    assert load_run(parts).autoencoder.params == TINY
    (parts / "training.json").write_text(json.dumps(former | {"preset": 3}))
    with pytest.raises(ValueError, match="names the preset 3; there are "):
        load_run(parts)
    (parts / "training.json").write_text(json.dumps(former))
    training(parts).train()
    assert_same(checkpoint(whole), checkpoint(parts))


def test_processes_that_prepare_crops_change_nothing(training, tmp_path):
    alone, helped = training(tmp_path / "alone"), training(tmp_path / "helped", num_workers=1)
    for first in (0, 2, 4, 10):  # in order, and after a jump
        numbers = range(first, first + 2)
        assert torch.equal(alone.batch(numbers), helped.batch(numbers))


def test_loss_falls_and_most_code_words_come_into_use(training, tmp_path):
    config = replace(CONFIG, restart_every=10, distortion=replace(CONFIG.distortion, mse=8.0))
    run = training(tmp_path / "run", replace(LOOP, steps=120, learning_rate=5e-3), config)
    x = run.batch(range(2))
    before = float(run.loss(x, torch.Generator())[1]["mse"].detach())
    run.train()
    after = float(run.loss(x, torch.Generator())[1]["mse"].detach())
    assert after < 0.7 * before
    assert int((run.upkeep.usage > 0.05 * run.upkeep.usage.mean()).sum()) >= 16


def test_other_options_in_the_same_folder_are_refused(training, tmp_path):
    training(tmp_path / "run")
    with pytest.raises(ValueError, match=r"learning_rate: 0\.0004 -> 0\.001"):
        training(tmp_path / "run", replace(LOOP, learning_rate=1e-3))
    with pytest.raises(ValueError, match=r"training\.restart_every: 2 -> 3"):
        training(tmp_path / "run", config=replace(CONFIG, restart_every=3))


def test_non_finite_loss_stops_and_keeps_the_checkpoint(training, tmp_path):
    run = tmp_path / "run"
    stopped(training(run), 2)
    broken = training(run)
    with torch.no_grad():
        broken.model.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="at step 2"):
        broken.train()
    assert checkpoint(run)["step"] == 2


def test_export_codes_the_training_indices_below_the_uniform_rate(training, photographs, tmp_path):
    run, out = tmp_path / "run", tmp_path / "model"
    training(run).train()
    report = export_model(run, out, data=photographs, max_images=2)
    model = Autoencoder.from_pretrained(out)
    uniform = sum(5 / stride**2 for stride in model.params.strides)  # log2(32) bits a token
    assert 0 < report.bits_per_pixel < uniform
    assert json.loads((out / "config.json").read_text())["codebook_size"] == 32
    for a, b in zip(
        load_run(run).autoencoder.half().float().parameters(), model.parameters(), strict=True
    ):
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


def test_networks_and_crops_that_do_not_exist_or_fit_are_refused(training, tmp_path):
    options = {"data": tmp_path, "run": tmp_path / "run", "cpu": True}
    with pytest.raises(ValueError, match="preset must be one of"):
        AutoencoderTraining.from_preset(CONFIG, LOOP, preset="huge", **options)
    with pytest.raises(ValueError, match="crop_size must be a multiple of 16, got 40"):
        training(tmp_path / "run", config=replace(CONFIG, crops=CropConfig(crop_size=40)))


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
