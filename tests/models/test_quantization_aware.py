# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as functional

from genaccel.models.integer_export import integer_model_of
from genaccel.models.masked_entropy_model import (
    MaskedEntropyModel,
    MaskedEntropyParams,
    code_length_bits,
)
from genaccel.models.quantization_aware import (
    QuantizationAwareEntropyModel,
    best_scale,
    on_grid,
    weight_scale,
)

LN2 = 0.6931471805599453
SMALL = MaskedEntropyParams(
    codebook_size=64,
    codebook_dim=4,
    num_scales=2,
    width=32,
    layers=2,
    heads=2,
    feed_forward_width=64,
    dropout=0.0,
    attends_own_slice=True,
    first_slice_without_position=False,
)


def correlated_indices(codebook, batch, generator):
    """Nearest codes of smooth random fields, each scale the mean of the next: ``[B, L]``."""
    side = SMALL.slice_order.grid_sides[-1]
    coarse = torch.randn(batch, codebook.shape[1], 4, 4, generator=generator)
    field = functional.interpolate(coarse, size=side, mode="bicubic")
    field = field + 0.2 * torch.randn(field.shape, generator=generator)
    parts = []
    for grid_side in SMALL.slice_order.grid_sides:
        rows = functional.adaptive_avg_pool2d(field, grid_side).flatten(2).transpose(1, 2)
        parts.append((rows @ codebook.T).argmax(dim=2))
    return torch.cat(parts, dim=1)


def train(network, parameters, codebook, steps, learning_rate, generator):
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        indices = correlated_indices(codebook, 16, generator)
        loss = code_length_bits(network(codebook[indices]), indices).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()


def bits_per_token(network, codebook, indices):
    with torch.no_grad():
        return float(code_length_bits(network(codebook[indices]), indices).mean())


def integer_bits(integers, indices):
    logits = integers(indices).double() / 2**integers.params.fraction_bits * LN2
    chosen = logits.log_softmax(dim=-1).gather(-1, indices.unsqueeze(-1))
    return float(-chosen.mean() / LN2)


@pytest.fixture(scope="module")
def trained():
    """A model trained for a moment, its codebook, windows to calibrate and to test with."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    codebook = functional.normalize(torch.randn(64, 4), dim=1)
    model = MaskedEntropyModel(SMALL)
    train(model, model.parameters(), codebook, 150, 1e-2, generator)
    calibration = correlated_indices(codebook, 8, generator)
    return model, codebook, calibration, correlated_indices(codebook, 64, generator)


def test_rounding_costs_less_than_two_percent(trained):
    model, codebook, calibration, test = trained
    exact = bits_per_token(model, codebook, test)
    assert exact < 5.0  # of 6: it has learnt something
    aware = QuantizationAwareEntropyModel(model, codebook[calibration]).eval()
    integers = integer_model_of(aware, codebook)
    assert integer_bits(integers, test) < 1.02 * exact
    assert bits_per_token(aware, codebook, test) == pytest.approx(
        integer_bits(integers, test), rel=0.002
    )


def test_logits_are_those_of_the_integers(trained):
    model, codebook, calibration, test = trained
    aware = QuantizationAwareEntropyModel(model, codebook[calibration]).eval()
    integers = integer_model_of(aware, codebook)
    with torch.no_grad():
        fake = aware(codebook[test]).log_softmax(dim=-1)
        exact = model(codebook[test]).log_softmax(dim=-1)
    logits = integers(test) / 2**integers.params.fraction_bits * LN2
    of_integers = logits.log_softmax(dim=-1)
    assert (fake - of_integers).std() < 0.02 * exact.std()
    assert (fake - of_integers).std() < (exact - of_integers).std()


def test_training_for_the_rounding_reaches_the_float_model_again(trained):
    """Weights so coarse that rounding hurts, then a moment of training."""
    model, codebook, calibration, test = trained
    exact = bits_per_token(model, codebook, test)
    again = MaskedEntropyModel(SMALL).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():  # a large weight per output leaves few steps of the grid for the others
        for block in again.transformer.layers:
            block.feed_forward.w1.weight[:, 0] *= 20
            block.feed_forward.w3.weight[:, 0] *= 20
            block.ffn_norm.weight[0] /= 20
            block.attention.wqkv.weight[:, 0] += 4 * block.attention.wqkv.weight.abs().amax(dim=1)
    aware = QuantizationAwareEntropyModel(again, codebook[calibration]).eval()
    before = integer_bits(integer_model_of(aware, codebook), test)
    generator = torch.Generator().manual_seed(1)
    train(aware, again.parameters(), codebook, 60, 3e-3, generator)
    aware.calibrate(codebook[calibration])
    after = integer_bits(integer_model_of(aware, codebook), test)
    assert after < before
    assert after < 1.02 * exact


def test_gradients_reach_all_parameters_and_the_codes(trained):
    model, codebook, calibration, test = trained
    aware = QuantizationAwareEntropyModel(model, codebook[calibration])
    codes = codebook[test[:4]].requires_grad_()
    code_length_bits(aware(codes), test[:4]).mean().backward()
    assert codes.grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    model.zero_grad()


def test_the_mode_of_the_model_stays(trained):
    model, codebook, calibration, _ = trained
    assert not QuantizationAwareEntropyModel(model, codebook[calibration]).training
    assert not model.training


def test_grids():
    x = torch.tensor([-200.0, -1.2, 0.5, 1.49, 200.0], requires_grad=True)
    rounded = on_grid(x, 1.0)
    assert rounded.tolist() == [-128.0, -1.0, 1.0, 1.0, 127.0]
    rounded.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert best_scale(torch.zeros(3)) == 1.0
    # An outlier is clipped rather than all others coarsened.
    values = torch.cat([torch.randn(100000), torch.tensor([30.0])])
    assert best_scale(values) < 0.75 * 30 / 127
    assert weight_scale(torch.tensor([[0.0, 0.0], [1.0, -254.0]]))[1].item() == 2.0
