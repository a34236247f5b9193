# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as functional

from genaccel.models.integer_entropy_model import (
    IntegerBlockParams,
    IntegerEntropyModel,
    IntegerEntropyParams,
)
from genaccel.models.integer_export import integer_model_of, quantize
from genaccel.models.masked_entropy_model import MaskedEntropyModel, MaskedEntropyParams
from genaccel.models.quantization_aware import QuantizationAwareEntropyModel

TINY = MaskedEntropyParams(
    codebook_size=48,
    codebook_dim=4,
    num_scales=2,
    width=32,
    layers=2,
    heads=2,
    feed_forward_width=40,
    first_slice_without_position=False,
)
VARIANTS = [
    TINY,
    dataclasses.replace(TINY, attends_own_slice=True),
    dataclasses.replace(TINY, first_slice_without_position=True),
    dataclasses.replace(TINY, num_scales=3, window_side=2, attends_own_slice=True),
    dataclasses.replace(TINY, num_scales=1, window_side=6, layers=1),
]
each = pytest.mark.parametrize("params", VARIANTS, ids=range(len(VARIANTS)))


def float_model(params):
    """A model whose every parameter matters, and its codebook."""
    torch.manual_seed(0)
    model = MaskedEntropyModel(params).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    codebook = functional.normalize(torch.randn(params.codebook_size, params.codebook_dim), dim=1)
    return model, codebook


def random_indices(params, batch=8):
    return torch.randint(params.codebook_size, (batch, params.slice_order.num_tokens))


def integer_model(params):
    model, codebook = float_model(params)
    return quantize(model, codebook, random_indices(params))


def run_steps(model, indices):
    """Logits of the flattened sequence, slice by slice."""
    state, previous, slices = model.begin(len(indices)), None, []
    for number in range(model.slice_order.num_slices):
        slices.append(model.step(state, previous))
        previous = indices[:, model.tokens_of_slice(number)]
    return torch.cat(slices, dim=1)[:, model.from_slice]


@each
def test_step_and_forward_give_equal_integers(params, device):
    model, indices = integer_model(params).to(device), random_indices(params).to(device)
    logits = model(indices)
    assert logits.dtype == torch.int32
    assert torch.equal(run_steps(model, indices), logits)
    assert torch.equal(model(indices, in_slice_order=True)[:, model.from_slice], logits)


@each
def test_batch_and_threads_do_not_matter(params):
    model, indices = integer_model(params), random_indices(params)
    logits = model(indices)
    torch.set_num_threads(2)
    assert torch.equal(model(indices), logits)
    assert torch.equal(run_steps(model, indices), logits)
    torch.set_num_threads(1)
    assert torch.equal(torch.cat([model(row) for row in indices[:, None]]), logits)
    assert torch.equal(run_steps(model, indices[3:4]), logits[3:4])
    assert model(indices[:0]).shape == (0, *logits.shape[1:])


@pytest.mark.cuda
@each
def test_cpu_and_cuda_agree(params):
    model, indices = integer_model(params), random_indices(params)
    logits = model(indices)
    assert torch.equal(model.cuda()(indices.cuda()).cpu(), logits)


@each
def test_is_causal(params):
    model, indices = integer_model(params), random_indices(params, batch=1)
    order = torch.tensor(params.slice_order.slice_of_token())
    logits = model(indices)
    for number in range(params.slice_order.num_slices):
        changed = indices.clone()
        changed[:, order == number] = (changed[:, order == number] + 1) % params.codebook_size
        again = model(changed)
        assert torch.equal(again[:, order <= number], logits[:, order <= number])
        if number + 1 < params.slice_order.num_slices:
            assert not torch.equal(again[:, order == number + 1], logits[:, order == number + 1])


@each
def test_is_close_to_the_float_model(params):
    model, codebook = float_model(params)
    indices = random_indices(params)
    with torch.no_grad():
        exact = model(codebook[indices])
    integers = quantize(model, codebook, indices)
    logits = integers(indices) / 2**integers.params.fraction_bits * 0.6931471805599453
    error = (logits.log_softmax(dim=-1) - exact.log_softmax(dim=-1)).std()
    assert error < 0.05 * exact.std()


def test_instruction_set_does_not_matter(tmp_path):
    model, indices = integer_model(TINY), random_indices(TINY)
    model.save_pretrained(tmp_path)
    torch.save((indices, model(indices)), tmp_path / "expected.pt")
    code = (
        "import sys, torch; from genaccel.models.integer_entropy_model import IntegerEntropyModel;"
        "model = IntegerEntropyModel.from_pretrained(sys.argv[1]);"
        "indices, logits = torch.load(sys.argv[1] + '/expected.pt');"
        "sys.exit(not torch.equal(model(indices), logits))"
    )
    for capability in ("default", "avx2"):
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], env=environment, check=True, timeout=600
        )


def test_save_and_load_give_the_same_model(tmp_path):
    model, indices = integer_model(TINY), random_indices(TINY)
    assert not any(t.is_floating_point() for t in model.state_dict().values())
    model.save_pretrained(tmp_path)
    loaded = IntegerEntropyModel.from_pretrained(tmp_path)
    assert loaded.params == model.params
    assert loaded.digest() == model.digest()
    assert torch.equal(loaded(indices), model(indices))
    assert len(model.digest()) == 64


@pytest.mark.parametrize("change", ["weight", "number"])
def test_digest_changes_with_whatever_decides_the_logits(change):
    model = integer_model(TINY)
    before = model.digest()
    if change == "weight":
        model.blocks[1].contraction.weight[0, 0] += 1
    else:
        model.params = dataclasses.replace(model.params, epsilon=model.params.epsilon + 1)
    assert model.digest() != before


def test_params_survive_json_and_wrong_ones_are_refused():
    params = IntegerEntropyParams(entropy=TINY, blocks=(IntegerBlockParams(),) * 2)
    values = json.loads(json.dumps(params.to_dict()))
    assert IntegerEntropyParams.from_dict(values) == params
    for wrong, message in (
        ({"blocks": values["blocks"][:1]}, "one entry for each of 2 layers, got 1"),
        ({"epsilon": 0.5}, "epsilon must be a whole number, got 0.5"),
        ({"epsilom": 1}, "does not fit"),
        ({"entropy": {**values["entropy"], "num_scales": 4}}, "at most 1023 tokens, got 1360"),
    ):
        with pytest.raises(ValueError, match=message):
            IntegerEntropyParams.from_dict({**values, **wrong})


def test_wrong_inputs_are_named():
    model = integer_model(TINY)
    with pytest.raises(ValueError, match=r"\[B, 80\], got \(2, 79\)"):
        model(torch.zeros(2, 79, dtype=torch.int64))
    state = model.begin(2)
    with pytest.raises(ValueError, match="None in the first step"):
        model.step(state, torch.zeros(2, 4, dtype=torch.int64))
    model.step(state)
    with pytest.raises(ValueError, match=r"slice 0 must be \(2, 4\), got None"):
        model.step(state)
    state.next_slice = 12
    with pytest.raises(ValueError, match="all 12 slices"):
        model.step(state, torch.zeros(2, 8, dtype=torch.int64))


def test_what_integers_cannot_hold_is_refused():
    model, codebook = float_model(TINY)
    aware = QuantizationAwareEntropyModel(model, codebook[random_indices(TINY)]).eval()
    with pytest.raises(ValueError, match=r"codebook must have shape \(48, 4\), got \(47, 4\)"):
        integer_model_of(aware, codebook[1:])
    with torch.no_grad():
        model.start_token.fill_(1e9)  # after calibration
    with pytest.raises(ValueError, match="more than 32 bits hold"):
        integer_model_of(aware, codebook)
