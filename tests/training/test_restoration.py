# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from genaccel.models.restoration import RestorationConfig
from genaccel.training.loop import LoopConfig
from genaccel.training.recipes.restoration import (
    RestorationTraining,
    RestorationTrainingConfig,
    load_restoration,
    relative_error,
)
from genaccel.training.recipes.restoration_pairs import (
    PairsConfig,
    PairStream,
    coded_base,
    write_pairs,
)

MODEL = RestorationConfig(channels=8, num_blocks=2, num_inner_blocks=1, condition_channels=4)
CONFIG = RestorationTrainingConfig(window_size=16)
PAIRS = PairsConfig(count=8, view_size=32)
LOOP = LoopConfig(steps=4, batch_size=4, warmup_steps=0, learning_rate=1e-3, ema_decay=0.5)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (8, 9, 3), dtype=np.uint8))
        coarse.resize((144, 128), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def run_training(data, run, loop=LOOP, **options):
    return RestorationTraining(MODEL, CONFIG, PAIRS, loop, data=data, run=run, cpu=True, **options)


def weights(training):
    return [p.detach().clone() for p in training.plain_model().parameters()]


def test_an_interrupted_run_ends_as_one_that_was_not(data, tmp_path):
    whole = run_training(data, tmp_path / "whole")
    whole.train()
    interrupted = run_training(data, tmp_path / "interrupted")
    for _ in range(2):
        interrupted._update()
    interrupted.save()
    resumed = run_training(data, tmp_path / "interrupted")
    assert resumed.step == 2
    resumed.train()
    for found, expected in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(found, expected)
    averages = [load_restoration(tmp_path / run) for run in ("whole", "interrupted")]
    for found, expected in zip(*(model.parameters() for model in averages), strict=True):
        assert torch.equal(found, expected)


def test_training_brings_the_picture_nearer(data, tmp_path):
    training = run_training(data, tmp_path / "run", dataclasses.replace(LOOP, steps=60))
    batch = training.batch(range(64))
    before, _ = training.loss(batch, torch.Generator())
    training.train()
    after, _ = training.loss(batch, torch.Generator())
    assert after < 0.97 * before


def test_a_run_can_begin_with_a_model(data, tmp_path):
    run_training(data, tmp_path / "run").train()
    load_restoration(tmp_path / "run").save_pretrained(tmp_path / "model", dtype=torch.float32)
    started = run_training(data, tmp_path / "next", start=tmp_path / "model")
    for found, expected in zip(
        weights(started), load_restoration(tmp_path / "run").parameters(), strict=True
    ):
        assert torch.equal(found, expected)


def test_features_of_vgg16_count_if_asked_for(data, tmp_path):
    config = dataclasses.replace(CONFIG, feature_weight=0.5, feature_size=16)
    options = {"data": data, "run": tmp_path / "run", "cpu": True}
    try:
        training = RestorationTraining(MODEL, config, PAIRS, LOOP, **options)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    loss, parts = training.loss(training.batch(range(4)), torch.Generator())
    assert 0.2 < float(parts["relative_distance"].detach()) <= 1  # that of the base, as yet
    total = parts["relative_error"] + 0.5 * parts["relative_distance"]
    torch.testing.assert_close(loss, total)
    training.train()


def test_other_options_are_refused(data, tmp_path):
    run_training(data, tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run with other options"):
        run_training(data, tmp_path / "run", dataclasses.replace(LOOP, steps=5))
    with pytest.raises(ValueError, match="holds pairs of"):
        write_pairs(data, tmp_path / "run/pairs", PairsConfig(count=9, view_size=32))
    with pytest.raises(ValueError, match="window_size must be a multiple of 8 up to 32, got 36"):
        PairStream(tmp_path / "run/pairs", 36)
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        PairStream(tmp_path, 16)


def test_pairs_are_a_pure_function_of_their_number(data, tmp_path):
    write_pairs(data, tmp_path / "pairs", PAIRS)
    stream = PairStream(tmp_path / "pairs", 16, seed=3)
    together = {pairs.scale: pairs for pairs in stream.windows(range(40))}
    assert set(together) == {1, 2, 4}
    assert sum(len(pairs.quality) for pairs in together.values()) == 40
    seen = dict.fromkeys(together, 0)
    for number in range(40):
        (alone,) = stream.windows(range(number, number + 1))
        row = seen[alone.scale]
        seen[alone.scale] += 1
        for name in ("base", "target", "quality"):
            group = getattr(together[alone.scale], name)
            assert torch.equal(getattr(alone, name)[0], group[row])


def test_windows_of_base_and_picture_show_the_same(data, tmp_path):
    write_pairs(data, tmp_path / "pairs", PairsConfig(count=24, view_size=64))
    for pairs in PairStream(tmp_path / "pairs", 32).windows(range(64)):
        aligned = (pairs.enlarged - pairs.target).square().mean()
        shifted = (pairs.enlarged - pairs.target.roll(2, dims=-1)).square().mean()
        assert aligned < shifted
        assert pairs.enlarged.shape == pairs.target.shape


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_base_of_odd_size_is_padded_first(scale):
    picture = np.full((33, 50, 3), 90, dtype=np.uint8)
    base, num_bytes = coded_base(picture, scale=scale, quality=60)
    assert base.shape == (-(-33 // scale), -(-50 // scale), 3)
    assert abs(base.astype(int) - 90).max() <= 3
    assert 0 < num_bytes < 2000


def test_the_error_of_the_base_itself_is_one():
    base, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(relative_error(base, base, target), torch.ones(2), rtol=1e-3, atol=0)
    assert torch.equal(relative_error(target, base, target), torch.zeros(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairsConfig(count=2), "count must be at least 3"),
        (lambda: PairsConfig(view_size=30), "view_size must be a multiple of 8"),
        (lambda: PairsConfig(seed=-1), "seed must be at least 0"),
        (lambda: RestorationTrainingConfig(window_size=0), "window_size must be at least 1"),
        (
            lambda: RestorationTrainingConfig(feature_weight=-1.0),
            "feature_weight must be at least 0",
        ),
        (
            lambda: RestorationTrainingConfig(feature_weight=1.0, feature_size=8),
            "feature_size must be within 16 to 128",
        ),
        (lambda: RestorationTrainingConfig(feature_fraction=0.0), "feature_fraction must be in"),
    ],
)
def test_configurations_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
