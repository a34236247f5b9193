# SPDX-License-Identifier: Apache-2.0
import dataclasses

import numpy as np
import pytest
import torch

from genaccel.codec.training.index_statistics import predicted_bits
from genaccel.codec.training.rate_distortion_model import RateDistortionModel, entropy_params
from genaccel.models.autoencoder import PRESETS
from genaccel.models.masked_entropy_model import MaskedEntropyModel


@pytest.fixture
def model(fresh_networks):
    """Random weights, also in the output layer, which begins as zeros."""
    autoencoder, entropy_model = fresh_networks()
    for parameter in entropy_model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return RateDistortionModel(autoencoder, entropy_model).eval()


def encoder_gradient(model, rate):
    """Gradient of a rate to all weights before the quantiser, in one vector."""
    autoencoder = model.autoencoder
    weights = [*autoencoder.encoder.parameters(), *autoencoder.quant_conv_list.parameters()]
    gradients = torch.autograd.grad(rate.bits, weights, retain_graph=True, allow_unused=True)
    assert all(g is not None for g in gradients)
    return torch.cat([g.flatten() for g in gradients])


def test_the_rate_alone_reaches_the_encoder_by_target_and_by_context(model):
    images = torch.rand(2, 3, 64, 32) * 2 - 1
    output = model.autoencoder(images)
    features, codes = output.features, output.code_vectors
    detached_features = [f.detach() for f in features]
    detached_codes = [c.detach() for c in codes]

    both = encoder_gradient(model, model.rate(features, codes, temperature=0.1))
    target = encoder_gradient(model, model.rate(features, detached_codes, temperature=0.1))
    context = encoder_gradient(model, model.rate(detached_features, codes, temperature=0.1))
    assert float(target.norm()) > 1e-3
    assert float(context.norm()) > 1e-3
    torch.testing.assert_close(target + context, both, rtol=1e-4, atol=1e-4 * float(both.norm()))
    # Hard targets: nothing but the context is left, which is what the paper's ablation trains with.
    hard = encoder_gradient(model, model.rate(features, codes, temperature=None))
    assert float(hard.norm()) > 1e-3
    with pytest.raises(AssertionError):
        encoder_gradient(model, model.rate(features, detached_codes, temperature=None))


def test_the_target_path_lowers_the_rate(model):
    """Features that follow the gradient of the target alone end at cheaper code words."""
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        features = [
            torch.nn.functional.normalize(f, dim=1) for f in model.autoencoder.features(images)
        ]
    codes = [model.autoencoder.quantize(f).values.detach() for f in features]
    leaves = [f.clone().requires_grad_() for f in features]
    before = model.rate(leaves, codes, temperature=0.5)
    for _ in range(20):
        rate = model.rate(leaves, codes, temperature=0.5)
        for leaf, gradient in zip(leaves, torch.autograd.grad(rate.bits, leaves), strict=True):
            leaf.data -= 0.05 * gradient
    after = model.rate(leaves, codes, temperature=0.5)
    assert float(after.bits.detach()) < float(before.bits.detach())
    assert float(after.hard_bits) < float(before.hard_bits)


def test_codebook_and_frozen_pass_get_no_gradient(model):
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    output, rate = model(images, temperature=0.1)
    (rate.bits + output.reconstruction.sum() + output.codebook_loss).backward()
    assert model.autoencoder.quantize.embedding.weight.grad is None
    assert model.autoencoder.decoder.conv_out.weight.grad is not None
    model.zero_grad()
    output, rate = model(images, temperature=0.1, reconstruct=False)
    rate.bits.backward()
    assert output is None
    assert all(p.grad is None for p in model.autoencoder.parameters())
    assert all(p.grad is not None for p in model.entropy_model.parameters())


def test_relaxed_rate_becomes_the_hard_one_as_the_temperature_falls(model):
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        rates = [model(images, temperature=t, reconstruct=False).rate for t in (1.0, 1e-2, 1e-5)]
        hard = model(images, temperature=None, reconstruct=False).rate
    gaps = [abs(float(rate.bits - hard.bits)) for rate in rates]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-2 * float(hard.bits)
    for rate in rates:
        torch.testing.assert_close(rate.hard_bits, hard.bits)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 80), (16, 16)])
def test_rate_of_features_is_that_of_their_indices_without_the_padding(model, height, width):
    image = torch.rand(1, 3, height, width) * 2 - 1
    with torch.no_grad():
        rate = model(image, temperature=None, reconstruct=False).rate
        maps = [m[0].numpy().astype(np.int32) for m in model.autoencoder.encode(image)]
    bits = predicted_bits(model, maps)
    assert rate.tokens == sum(m.size for m in maps)
    assert float(rate.bits) == pytest.approx(float(bits.sum()), rel=1e-5)


def test_networks_that_do_not_fit_are_refused(model):
    params = dataclasses.replace(model.entropy_model.params, codebook_size=16)
    with pytest.raises(ValueError, match=r"\(32, 4, 2\), got \(16, 4, 2\)"):
        RateDistortionModel(model.autoencoder, MaskedEntropyModel(params))
    assert entropy_params("small", model.autoencoder.params).num_scales == 2
    assert entropy_params("small", PRESETS["small"]).slice_order.num_tokens == 336
    with pytest.raises(ValueError, match="must be one of"):
        entropy_params("huge", PRESETS["small"])
