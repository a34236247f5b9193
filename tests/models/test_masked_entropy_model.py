# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import load_file

from genaccel.layers.vector_quantizer import VectorQuantizer
from genaccel.models.autoencoder import PRESETS as AUTOENCODER_PRESETS
from genaccel.models.masked_entropy_model import (
    PRESETS,
    MaskedEntropyModel,
    MaskedEntropyParams,
    code_length_bits,
)

GOLDEN = Path(__file__).parents[1] / "golden"
# Of the fixture's description, and six times what fp32 itself makes of it: 3.4e-5 to 3.6e-5 on AVX-512, AVX2 and SSE.
TOLERANCE = 2e-4
PREFIX = "quantize.condition_entropy_small."

TINY = MaskedEntropyParams(
    codebook_size=16,
    codebook_dim=4,
    num_scales=2,
    width=16,
    layers=2,
    heads=2,
    feed_forward_width=24,
)
VARIANTS = [
    TINY,
    dataclasses.replace(TINY, attends_own_slice=True),
    dataclasses.replace(TINY, first_slice_without_position=False),
    dataclasses.replace(TINY, num_scales=3, window_side=2, attends_own_slice=True),
    dataclasses.replace(TINY, num_scales=1, window_side=6),
    dataclasses.replace(TINY, num_scales=4, window_side=2),
]
each = pytest.mark.parametrize("params", VARIANTS, ids=range(len(VARIANTS)))


def model_of(params, dtype=torch.float64):
    """A model whose every parameter matters."""
    model = MaskedEntropyModel(params).to(dtype).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_codes(params, batch=2, dtype=torch.float64):
    codes = torch.randn(batch, params.slice_order.num_tokens, params.codebook_dim, dtype=dtype)
    return functional.normalize(codes, dim=-1)


def run_steps(model, codes):
    """All slices one by one, fed with the true code vectors; logits of the flattened sequence."""
    state, previous = model.begin(len(codes)), None
    logits = codes.new_empty(*codes.shape[:2], model.params.codebook_size)
    for number in range(model.slice_order.num_slices):
        tokens = model.tokens_of_slice(number)
        logits[:, tokens] = model.step(state, previous)
        previous = codes[:, tokens]
    return logits


@pytest.fixture(scope="module")
def golden():
    """The authors' numbers and our model with their weights."""
    weights = load_file(GOLDEN / "rdvq_autoencoder" / "model_quantizer_predictor.safetensors")
    params = MaskedEntropyParams(
        codebook_size=128, codebook_dim=8, width=96, layers=2, heads=4, feed_forward_width=256
    )
    model = MaskedEntropyModel(params).eval()
    own = {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
    model.load_state_dict(own)
    quantizer = VectorQuantizer(128, 8)
    with torch.no_grad():
        quantizer.embedding.weight.copy_(weights["quantize.embedding.weight"])
    folder = GOLDEN / "rdvq_entropy"
    tensors = load_file(folder / "entropy.safetensors")
    return model, quantizer, tensors, json.loads((folder / "scalars.json").read_text())


@pytest.mark.golden
def test_queries_hidden_states_and_logits_are_the_authors(golden):
    model, _, tensors, _ = golden
    hidden = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, output: hidden.append(output))
        for block in model.transformer.layers
    ]
    with torch.no_grad():
        queries = model.queries(tensors["z_q"])[:, model.from_slice]
        logits = model(tensors["z_q"])
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(queries, tensors["query"], atol=1e-5, rtol=0)
    for layer, x in enumerate(hidden):
        expected = tensors[f"hidden_after_layer{layer}_window0"]
        torch.testing.assert_close(x[0, model.from_slice], expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits, tensors["logits"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(
        model.rotations[model.from_slice], tensors["rope_cos_sin"], atol=2e-7, rtol=0
    )


@pytest.mark.golden
def test_steps_with_a_cache_are_the_authors(golden):
    model, _, tensors, _ = golden
    logits = run_steps(model, tensors["z_q"])
    torch.testing.assert_close(logits, tensors["logits_incremental"], atol=TOLERANCE, rtol=0)


@pytest.mark.golden
def test_code_lengths_are_the_authors(golden):
    model, _, tensors, scalars = golden
    with torch.no_grad():
        bits = code_length_bits(model(tensors["z_q"]), tensors["indices"])
    torch.testing.assert_close(bits, tensors["bits_hard"], atol=TOLERANCE, rtol=0)
    assert float(bits.sum()) == pytest.approx(scalars["sum_bits_hard"], rel=1e-5)
    coded = bits[tensors["mask_padded"] == 0]
    assert float(coded.sum()) == pytest.approx(scalars["sum_bits_hard_masked"], rel=1e-5)


@pytest.mark.golden
def test_completion_of_a_prefix_is_the_authors(golden):
    model, quantizer, tensors, _ = golden
    state, previous = model.begin(2), None
    indices = torch.empty_like(tensors["indices"])
    for number in range(model.slice_order.num_slices):
        tokens = model.tokens_of_slice(number)
        likeliest = model.step(state, previous).argmax(-1)
        indices[:, tokens] = tensors["indices"][:, tokens] if number < 8 else likeliest
        previous = quantizer.codebook[indices[:, tokens]]
    assert torch.equal(indices, tensors["prefix8_argmax_indices"])


def soft_rate(y, codes, logits, tau):
    """Equation 7, as a sum in bits, and the relaxed posterior of equation 6."""
    posterior = ((2 * y @ codes.T - 2) / tau).softmax(-1)
    return -(posterior * functional.log_softmax(logits, -1)).sum(-1) / math.log(2), posterior


@pytest.mark.golden
@pytest.mark.parametrize("tau", [0.1, 0.01])
def test_soft_rate_and_its_gradients_are_the_authors(golden, tau):
    model, quantizer, tensors, scalars = golden
    model.zero_grad()
    quantizer.zero_grad()
    features = [tensors[f"u_s{i}"].clone().requires_grad_() for i in (1, 2, 3)]
    quantized = [quantizer(u) for u in features]
    indices = torch.cat([q.indices.flatten(1) for q in quantized], 1)
    assert torch.equal(indices, tensors["indices"])
    y = torch.cat([functional.normalize(u, dim=1).flatten(2) for u in features], 2)
    # Straight-through code vectors: the context's gradient arrives at the features too.
    logits = model([q.values for q in quantized])
    bits, posterior = soft_rate(y.transpose(1, 2), quantizer.codebook, logits, tau)
    torch.testing.assert_close(bits, tensors[f"bits_soft_tau{tau}"], atol=TOLERANCE, rtol=0)
    total = float(bits.detach().sum())
    assert total == pytest.approx(scalars[f"sum_bits_soft_tau{tau}"], rel=1e-5)
    torch.testing.assert_close(
        posterior[:, tensors["token_ids"]],
        tensors[f"p_soft_tau{tau}_tokens"],
        atol=1e-5 / tau,
        rtol=0,
    )
    bits.sum().backward()
    found = {f"grad_u_s{i}_tau{tau}": u.grad for i, u in zip((1, 2, 3), features, strict=True)}
    if tau == 0.1:
        found["grad_param.embedding.weight"] = quantizer.embedding.weight.grad
        for name in (k for k in tensors if k.startswith("grad_param.") and "embed" not in k):
            found[name] = model.get_parameter(name.removeprefix("grad_param.")).grad
        assert len(found) == 9
    for name, gradient in found.items():
        tolerance = 1e-3 * float(tensors[name].abs().max())
        torch.testing.assert_close(gradient, tensors[name], atol=tolerance, rtol=0, msg=name)


@pytest.mark.golden
@pytest.mark.parametrize("tau", [0.1, 0.01])
def test_both_paths_of_the_gradient_are_the_authors(golden, tau):
    model, quantizer, tensors, _ = golden
    codes = quantizer.codebook.detach()
    context, target = (tensors["y"].clone().requires_grad_() for _ in range(2))
    straight_through = context + (tensors["z_q"] - context).detach()
    bits, _ = soft_rate(target, codes, model(straight_through), tau)
    gradients = torch.autograd.grad(bits.sum(), [context, target])
    for path, gradient in zip(("context", "target"), gradients, strict=True):
        expected = tensors[f"grad_y_{path}_path_tau{tau}"]
        tolerance = 1e-3 * float(expected.abs().max())
        torch.testing.assert_close(gradient, expected, atol=tolerance, rtol=0)


@each
def test_steps_equal_the_parallel_pass(params):
    model, codes = model_of(params), random_codes(params)
    with torch.no_grad():
        torch.testing.assert_close(run_steps(model, codes), model(codes))


def test_steps_equal_the_parallel_pass_in_float32():
    model = model_of(TINY, torch.float32)
    codes = random_codes(TINY, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(run_steps(model, codes), model(codes), atol=1e-4, rtol=0)


@each
def test_a_token_moves_later_slices_only(params):
    model, codes = model_of(params), random_codes(params, batch=1)
    numbers = torch.tensor(params.slice_order.slice_of_token())
    with torch.no_grad():
        before = model(codes)
        for number in range(params.slice_order.num_slices):
            changed = codes.clone()
            token = model.tokens_of_slice(number)[-1]
            changed[:, token] = -changed[:, token]
            moved = (model(changed) != before).any(-1)[0]
            assert not bool(moved[numbers <= number].any())
            # The very next one, through its query; where a scale begins, only tokens near its positions.
            if number + 1 not in params.slice_order.scale_starts:
                assert bool(moved[numbers == number + 1].any())


@pytest.mark.parametrize("params", VARIANTS[:2], ids=["strict", "own"])
def test_what_a_slice_reads_of_the_one_before(params):
    """Strictly, one token through the query; with its own keys, all of them."""
    model, codes = model_of(params), random_codes(params, batch=1)
    number = params.slice_order.scale_starts[1] + 2
    changed = codes.clone()
    changed[:, model.tokens_of_slice(number)[0]] *= -1
    with torch.no_grad():
        moved = (model(changed) != model(codes)).any(-1)[0]
    tokens = moved[model.tokens_of_slice(number + 1)]
    assert bool(tokens[0])
    assert bool(tokens[1:].all()) == params.attends_own_slice
    assert bool(tokens[1:].any()) == params.attends_own_slice


@each
def test_windows_of_a_batch_do_not_mix(params):
    model, codes = model_of(params), random_codes(params)
    with torch.no_grad():
        torch.testing.assert_close(model(codes)[1:], model(codes[1:]))


@each
def test_a_prefix_needs_no_later_slice(params):
    """Logits of the first slices are those of the full pass, whatever comes after."""
    model, codes = model_of(params), random_codes(params)
    state, previous = model.begin(2), None
    with torch.no_grad():
        full = model(codes)
    for number in range(3):
        tokens = model.tokens_of_slice(number)
        torch.testing.assert_close(model.step(state, previous), full[:, tokens])
        previous = codes[:, tokens]
    assert state.next_slice == 3


def test_maps_and_flattened_sequence_are_the_same():
    model, codes = model_of(TINY), random_codes(TINY)
    maps = [
        part.transpose(1, 2).reshape(2, 4, side, side)
        for part, side in zip(codes.split([16, 64], dim=1), (4, 8), strict=True)
    ]
    with torch.no_grad():
        assert torch.equal(model(maps), model(codes))


def test_gradients_reach_every_parameter_and_the_codes_that_are_read():
    model, codes = model_of(TINY), random_codes(TINY).requires_grad_()
    model(codes).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    last = model.tokens_of_slice(model.slice_order.num_slices - 1)
    read = codes.grad.abs().sum(-1) > 0
    assert not bool(read[:, last].any())  # nothing follows it
    assert int(read.sum()) == read.numel() - 2 * len(last)


def test_first_slice_reads_itself_evenly_without_position():
    model = model_of(dataclasses.replace(TINY, layers=1))
    start = model.rotations[: model.slice_order.slice_sizes[0]]
    assert not bool(start.any())
    assert bool(model_of(VARIANTS[2]).rotations[:4].any())


def test_a_new_model_spends_log2_of_the_codebook():
    model = MaskedEntropyModel(TINY).eval()
    bits = code_length_bits(
        model(random_codes(TINY, dtype=torch.float32)), torch.zeros(2, 80, dtype=torch.int64)
    )
    torch.testing.assert_close(bits, torch.full_like(bits, 4.0))


def test_dropout_is_on_in_training_only():
    model, codes = model_of(TINY), random_codes(TINY)
    with torch.no_grad():
        assert torch.equal(model(codes), model(codes))
        model.train()
        assert not torch.equal(model(codes), model(codes))
    with pytest.raises(RuntimeError, match="evaluation mode"):
        model.begin(1)


def test_bfloat16_is_near():
    model, codes = model_of(TINY, torch.float32), random_codes(TINY, dtype=torch.float32)
    with torch.no_grad():
        exact = model(codes)
        with torch.autocast("cpu", torch.bfloat16):
            automatic, first = model(codes), model.step(model.begin(2))
        half = model.bfloat16()(codes.bfloat16())
    spread = float(exact.std())
    assert float((automatic - exact).abs().mean()) < 0.05 * spread
    assert float((first - exact[:, model.tokens_of_slice(0)]).abs().mean()) < 0.05 * spread
    assert float((half - exact).abs().mean()) < 0.05 * spread


def test_paper_preset_has_exactly_the_papers_parameters():
    keys = json.loads((GOLDEN / "rdvq_keys.json").read_text())
    with torch.device("meta"):
        model = MaskedEntropyModel(PRESETS["paper"])
    assert sum(p.numel() for p in model.parameters()) == 88_125_792
    assert keys["parameters_by_part"]["entropy_model"] == 88_125_792
    own = {k: v[0] for k, v in keys["state"].items() if k.startswith(PREFIX)}
    assert own == {PREFIX + k: list(v.shape) for k, v in model.state_dict().items()}


@pytest.mark.parametrize("params", PRESETS.values(), ids=PRESETS)
def test_seeds_are_the_same_on_every_machine(params):
    """Bicubic weights at twice the size are short binary fractions, exact in whatever order they are multiplied."""
    model = MaskedEntropyModel(params)
    for scale in range(1, params.num_scales):
        scaled = model.get_buffer(f"seed_matrix_{scale}").double() * 2**16
        assert torch.equal(scaled, scaled.round())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_the_autoencoders_of_the_same_name(name):
    autoencoder, params = AUTOENCODER_PRESETS[name], PRESETS[name]
    assert params.codebook_size == autoencoder.codebook_size
    assert params.codebook_dim == autoencoder.codebook_dim
    assert params.num_scales == len(autoencoder.strides)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codebook_size": 1}, r"codebook_size must be in \[2, 32768\], got 1"),
        ({"codebook_dim": 0}, r"codebook_dim must be in \[1, 1024\], got 0"),
        ({"layers": 0}, r"layers must be in \[1, 128\], got 0"),
        ({"heads": 3}, r"multiple of 4 \* heads = 12, got 16"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"num_scales": 0}, "num_scales"),
        ({"window_side": 5}, "window_side must be even"),
    ],
)
def test_params_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **values)


def test_params_survive_json_and_unknown_keys_are_refused():
    assert MaskedEntropyParams.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    with pytest.raises(ValueError, match="does not fit"):
        MaskedEntropyParams.from_dict({"widht": 3})


def test_wrong_shapes_are_named():
    model = model_of(TINY)
    with pytest.raises(ValueError, match=r"\[B, 80, 4\], got \(2, 79, 4\)"):
        model(torch.zeros(2, 79, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="maps must have shapes"):
        model([torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 8, 4)])
    state = model.begin(2)
    with pytest.raises(ValueError, match="None in the first step"):
        model.step(state, torch.zeros(2, 4, 4))
    model.step(state)
    with pytest.raises(ValueError, match=r"slice 0 must be \(2, 4, 4\), got None"):
        model.step(state)
    with pytest.raises(ValueError, match=r"got \(1, 4, 4\)"):
        model.step(state, torch.zeros(1, 4, 4))
    state.next_slice = 12
    with pytest.raises(ValueError, match="all 12 slices"):
        model.step(state, torch.zeros(2, 8, 4))


def test_save_and_load_give_the_same_logits(tmp_path):
    model, codes = model_of(TINY, torch.float32), random_codes(TINY, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = MaskedEntropyModel.from_pretrained(tmp_path)
    assert loaded.params == TINY
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(codes), model(codes))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no entropy-model folder: model\.safetensors"):
        MaskedEntropyModel.from_pretrained(tmp_path)
