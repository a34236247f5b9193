# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from genaccel.models.registry import check_model_folder
from genaccel.speculative_sr.degradation import DegradationConfig
from genaccel.speculative_sr.draft_network import SuperResolutionDraft
from genaccel.speculative_sr.networks import SuperResolutionBase, SuperResolutionParams
from genaccel.speculative_sr.training.base import (
    BaseTrainingConfig,
    SuperResolutionTraining,
    load_base,
)
from genaccel.speculative_sr.training.distance import Distance, DistanceConfig
from genaccel.speculative_sr.training.draft import (
    DraftTrainingConfig,
    SuperResolutionDraftTraining,
    load_draft,
)
from genaccel.speculative_sr.training.tiles import Tiles
from genaccel.training.crops import CropConfig
from genaccel.training.loop import LoopConfig

MODEL = SuperResolutionParams(
    channels=64, num_layers=3, stem_channels=8, upscaler_channels=8, upscaler_blocks=1
)
LOOP = LoopConfig(steps=4, batch_size=2, warmup_steps=0, learning_rate=1e-3, ema_decay=0.5)
CROPS = CropConfig(crop_size=32)
DEGRADATION = DegradationConfig(strength=0.3)
PIXELS = DistanceConfig()


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (16, 18, 3), dtype=np.uint8))
        coarse.resize((108, 96), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def base_training(data, run, loop=LOOP, *, distance=PIXELS, **options):
    config = BaseTrainingConfig()
    return SuperResolutionTraining(
        MODEL, config, distance, CROPS, DEGRADATION, loop, data=data, run=run, cpu=True, **options
    )


def draft_training(data, run, base, loop=LOOP, *, distance=PIXELS, **options):
    config = DraftTrainingConfig()
    return SuperResolutionDraftTraining(
        config,
        distance,
        CROPS,
        DEGRADATION,
        loop,
        base=base,
        data=data,
        run=run,
        cpu=True,
        **options,
    )


@pytest.fixture
def base(data, tmp_path):
    """The run of a base."""
    base_training(data, tmp_path / "base").train()
    return tmp_path / "base"


def weights(training):
    return [p.detach().clone() for p in training.plain_model().parameters()]


def assert_an_interrupted_run_ends_as_one_that_was_not(make, tmp_path):
    whole = make(tmp_path / "whole")
    whole.train()
    interrupted = make(tmp_path / "interrupted")
    for _ in range(2):
        interrupted._update()
    interrupted.save()
    resumed = make(tmp_path / "interrupted")
    assert resumed.step == 2
    resumed.train()
    for found, expected in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(resumed.ema.shadow_params, whole.ema.shadow_params, strict=True):
        assert torch.equal(found, expected)


def test_an_interrupted_run_of_a_base_ends_as_one_that_was_not(data, tmp_path):
    # One of the runs is also measured, which must change nothing.
    assert_an_interrupted_run_ends_as_one_that_was_not(
        lambda run: base_training(data, run, held_out=data if run.name == "whole" else None),
        tmp_path,
    )


def test_an_interrupted_run_of_a_draft_ends_as_one_that_was_not(data, base, tmp_path):
    assert_an_interrupted_run_ends_as_one_that_was_not(
        lambda run: draft_training(data, run, base), tmp_path
    )


def test_a_draft_keeps_the_base_that_it_began_with(data, base, tmp_path):
    run = tmp_path / "draft"
    begun = draft_training(data, run, base)
    expected = weights(begun)
    further = base_training(data, base, dataclasses.replace(LOOP))
    further._update()
    further.save()
    for found, weight in zip(weights(draft_training(data, run, base)), expected, strict=True):
        assert torch.equal(found, weight)


def test_training_a_base_brings_the_picture_nearer(data, tmp_path):
    training = base_training(data, tmp_path / "run", dataclasses.replace(LOOP, steps=40))
    batch = training.batch(range(8))
    before, _ = training.loss(batch, torch.Generator())
    training.train()
    after, parts = training.loss(batch, torch.Generator())
    assert after < 0.98 * before
    assert parts["l1"] != parts["upscaler"]


def test_training_a_draft_moves_what_its_first_loss_depends_on(data, base, tmp_path):
    training = draft_training(data, tmp_path / "run", base, dataclasses.replace(LOOP, steps=30))
    batch = training.batch(range(8))
    before, _ = training.loss(batch, torch.Generator())
    training.train()
    after, _ = training.loss(batch, torch.Generator())
    assert after < before
    fused = training.plain_model().draft.blocks[-1]
    assert fused.own_weight.abs().max() > 0
    assert all(parameter.grad is None for parameter in training._base.parameters())


def test_exported_models_are_what_was_trained(data, base, tmp_path):
    run = tmp_path / "draft"
    training = draft_training(data, run, base)
    training.train()
    assert training.export() == f"wrote {run / 'model'}"
    check_model_folder(run / "model", "super-resolution")
    small = torch.rand(1, 3, 8, 8) * 2 - 1
    stored_base = SuperResolutionBase.from_pretrained(run / "model")
    stored_draft = SuperResolutionDraft.from_pretrained(run / "model/draft")
    with torch.no_grad():
        found = stored_draft.estimates(stored_base, small)
        expected = load_draft(run).estimates(load_base(base), small)
    assert len(found) == 4
    for stored, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(stored, exact, rtol=0, atol=5e-3)  # stored in half precision
    from_folder = draft_training(data, tmp_path / "second", run / "model")
    assert from_folder.plain_model().params == load_draft(run).params


def test_a_run_can_begin_with_a_model(data, base, tmp_path):
    load_base(base).save_pretrained(tmp_path / "model", dtype=torch.float32)
    started = base_training(data, tmp_path / "next", start=tmp_path / "model")
    for found, expected in zip(weights(started), load_base(base).parameters(), strict=True):
        assert torch.equal(found, expected)


def test_held_out_tiles_are_measured_at_checkpoints(data, base, tmp_path):
    run = tmp_path / "draft"
    training = draft_training(data, run, base, held_out=data)
    before = weights(training)
    training.save()
    assert all(torch.equal(a, b) for a, b in zip(weights(training), before, strict=True))
    training.train()
    lines = [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 4]
    assert lines[0]["base_psnr"] == lines[1]["base_psnr"] > 10
    assert lines[0]["draft_psnr"] != lines[1]["draft_psnr"]


def test_tiles_are_a_pure_function_of_their_number(data):
    options = {"seed": 5, "device": torch.device("cpu")}
    small, high = Tiles(data, CROPS, DEGRADATION, **options)(range(3, 9))
    assert (small.shape, high.shape) == ((6, 3, 8, 8), (6, 3, 32, 32))
    alone = Tiles(data, CROPS, DEGRADATION, **options)
    for i in range(6):
        found = alone(range(3 + i, 4 + i))
        assert torch.equal(found[0][0], small[i])
        assert torch.equal(found[1][0], high[i])
    for side in (16, 36):
        with pytest.raises(ValueError, match="crop_size must be a multiple of 8 and at least 32"):
            Tiles(data, CropConfig(crop_size=side), DEGRADATION, **options)


def test_the_perceptual_distance_joins_if_asked_for(data, base, tmp_path):
    distance = DistanceConfig(perceptual_weight=0.5, perceptual_size=24, pixel="l2")
    try:
        training = draft_training(data, tmp_path / "run", base, distance=distance)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    small, high = training.batch(range(2))
    _, *estimates = training.plain_model()(
        *training.plain_model().first_step(training._base, small)
    )
    loss, parts = training.distance(estimates[-1], high, torch.Generator().manual_seed(0))
    assert set(parts) == {"l2", "perceptual"}
    torch.testing.assert_close(loss, parts["l2"] + 0.5 * parts["perceptual"])
    again, _ = training.distance(estimates[-1], high, torch.Generator().manual_seed(0))
    assert torch.equal(again, loss)
    zero, _ = Distance(distance, device=torch.device("cpu"))(high, high, torch.Generator())
    assert zero == 0


def test_other_options_are_refused(data, tmp_path):
    base_training(data, tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds a run with other options \(distance.pixel"):
        base_training(data, tmp_path / "run", distance=DistanceConfig(pixel="l2"))
    with pytest.raises(FileNotFoundError):
        draft_training(data, tmp_path / "draft", tmp_path / "nothing")
    assert not (tmp_path / "draft").exists()
