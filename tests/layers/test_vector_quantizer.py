# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as functional

from genaccel.layers.vector_quantizer import VectorQuantizer


def test_values_are_the_nearest_unit_code_words():
    quantizer = VectorQuantizer(37, 6)
    features = torch.randn(2, 6, 5, 3)
    result = quantizer(features)
    unit = functional.normalize(features, dim=1)
    cosines = torch.einsum("bchw,kc->bhwk", unit, quantizer.codebook)
    assert torch.equal(result.indices, cosines.argmax(-1))
    torch.testing.assert_close(result.values, quantizer.lookup(result.indices))


def test_gradient_passes_straight_through_the_normalisation():
    quantizer = VectorQuantizer(16, 4)
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    target = torch.randn(1, 4, 2, 2)
    (quantizer(features).values * target).sum().backward()
    expected = torch.autograd.grad(
        (functional.normalize(features, dim=1) * target).sum(), features
    )[0]
    torch.testing.assert_close(features.grad, expected)
    assert quantizer.embedding.weight.grad is None


def test_losses_pull_only_their_own_side():
    quantizer = VectorQuantizer(16, 4)
    features = torch.randn(1, 4, 3, 3, requires_grad=True)
    result = quantizer(features)
    result.codebook_loss.backward(retain_graph=True)
    assert features.grad is None
    assert quantizer.embedding.weight.grad.abs().sum() > 0
    quantizer.embedding.weight.grad = None
    result.commitment_loss.backward()
    assert features.grad.abs().sum() > 0
    assert quantizer.embedding.weight.grad is None


def test_half_precision_features_keep_their_dtype_and_the_fp32_choice():
    quantizer = VectorQuantizer(64, 8)
    features = torch.randn(1, 8, 4, 4).bfloat16()
    result = quantizer(features)
    assert result.values.dtype == torch.bfloat16
    assert torch.equal(result.indices, quantizer(features.float()).indices)


def test_wrong_channels_are_named():
    with pytest.raises(ValueError, match="features must have 8 channels, got 6"):
        VectorQuantizer(16, 8)(torch.randn(1, 6, 2, 2))
