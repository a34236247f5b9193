# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch

from genaccel.errors import ModelFolderError
from genaccel.models.restoration import lanczos_enlarged
from genaccel.speculative_sr.draft_network import DraftParams, SuperResolutionDraft
from genaccel.speculative_sr.networks import SuperResolutionBase, SuperResolutionParams

PARAMS = SuperResolutionParams(
    channels=64, num_layers=3, stem_channels=8, upscaler_channels=8, upscaler_blocks=1
)


@pytest.fixture
def base():
    torch.manual_seed(0)
    model = SuperResolutionBase(PARAMS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture
def small():
    return torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("blocks", [0, 1])
@torch.no_grad()
def test_untrained_it_is_lanczos(small, blocks):
    params = SuperResolutionParams(channels=64, num_layers=1, upscaler_blocks=blocks)
    low, estimate = SuperResolutionBase(params).eval()(small)
    assert torch.equal(low, lanczos_enlarged(small, 4))
    assert torch.equal(estimate, low)


@torch.no_grad()
def test_a_picture_does_not_depend_on_its_neighbours_in_the_batch(base, small):
    _, together = base(small)
    assert together.shape == (2, 3, 24, 40)
    for i in range(2):
        _, alone = base(small[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


def test_the_flow_begins_with_a_picture_that_its_own_loss_alone_shapes(base, small):
    _, estimate = base(small)
    estimate.sum().backward()
    assert all(parameter.grad is None for parameter in base.upscaler.parameters())
    assert base.transformer.stem.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_attention_is_alike_in_bf16(base, small):
    _, exact = base(small)
    with torch.autocast("cpu", torch.bfloat16):
        _, rounded = base(small)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05


@torch.no_grad()
def test_both_come_back_from_their_folders(base, small, tmp_path):
    draft = SuperResolutionDraft.of(base, interval=2, sigmas=(0.5, 0.25))
    base.save_pretrained(tmp_path / "base", dtype=torch.float32)
    draft.save_pretrained(tmp_path / "draft", dtype=torch.float32)
    loaded = SuperResolutionBase.from_pretrained(tmp_path / "base")
    drafted = SuperResolutionDraft.from_pretrained(tmp_path / "draft")
    assert (loaded.params, drafted.params) == (base.params, draft.params)
    assert drafted.draft.kept == (0, 2)
    estimates = draft.estimates(base, small)
    assert len(estimates) == 3
    for found, expected in zip(drafted.estimates(loaded, small), estimates, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(estimates[0], base(small)[1], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_fresh_draft_has_the_velocity_of_its_base(base, small):
    draft = SuperResolutionDraft.of(base)
    low, velocity, features = draft.first_step(base, small)
    found = draft.velocity(low, low, base.params.sigma, draft.draft.project(features))
    assert torch.equal(found, velocity)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuperResolutionParams(channels=96), "channels must be a multiple of 64"),
        (lambda: SuperResolutionParams(num_layers=0), "num_layers must be in"),
        (lambda: SuperResolutionParams(sigma=1.5), "sigmas must fall within"),
        (lambda: SuperResolutionParams.from_dict({"depth": 3}), "unknown keys .* depth"),
        (lambda: DraftParams(interval=13), "interval must be in"),
        (lambda: DraftParams(sigmas=(0.8,)), "sigmas must fall within"),
        (lambda: DraftParams(sigmas=()), "sigmas must have 1 to 100 entries"),
        (lambda: DraftParams.from_dict({"interval": 3}), "has base, interval and a list of sigmas"),
    ],
)
def test_parameters_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base", None),
        ("base", {"channels": 2**40}),
        ("interval", 2.0),
        ("sigmas", 0.5),
        ("sigmas", ["a"]),
        ("sigmas", [None, 0.1]),
    ],
)
def test_hostile_folders_of_drafts_are_refused(base, tmp_path, key, value):
    SuperResolutionDraft.of(base).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(ModelFolderError, match="is no valid super-resolution-draft"):
        SuperResolutionDraft.from_pretrained(tmp_path)
