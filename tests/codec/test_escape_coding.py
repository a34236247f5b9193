# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genaccel.codec.coding.escape_coding import (
    EscapeDecoder,
    EscapeEncoder,
    residual_rows,
    top_rows,
)
from genaccel.errors import BitstreamError
from genaccel.models.masked_entropy_model import (
    MaskedEntropyModel,
    MaskedEntropyParams,
    code_length_bits,
)

GOLDEN = Path(__file__).parents[1] / "golden"
PREFIX = "quantize.condition_entropy_small."


def random_probabilities(count, codes):
    return (3 * torch.randn(count, codes)).softmax(1)


@pytest.mark.golden
def test_symbols_and_tables_are_the_authors():
    t = load_file(GOLDEN / "rdvq_cdf" / "cdf.safetensors")
    probabilities, targets = t["map_pmf"], t["map_targets"]
    codes, cdfs = top_rows(probabilities, 24)
    assert torch.equal(codes.int(), t["map_top_indices"])
    # The escape mass depends on the order of an fp32 sum: one slot either way.
    assert int((cdfs - t["map_top_cdfs"]).abs().max()) <= 1
    escaped = t["map_top_symbols"] == 24
    hits = codes == targets[:, None]
    assert torch.equal(hits.any(1), ~escaped)
    assert torch.equal(hits.int().argmax(1)[~escaped].int(), t["map_top_symbols"][~escaped])
    rest, cdfs = residual_rows(probabilities[escaped], codes[escaped])
    assert torch.equal(rest.int(), t["map_residual_indices"])
    assert torch.equal(cdfs, t["map_residual_cdfs"])
    ranks = t["map_residual_symbols"].long()[:, None]
    assert torch.equal(rest.gather(1, ranks)[:, 0], targets[escaped])


@pytest.mark.parametrize("top_k", [1, 7, 63])
@pytest.mark.parametrize("counts", [(), (0,), (1,), (5, 0, 40)])
def test_round_trip(top_k, counts):
    slices = [random_probabilities(n, 64) for n in counts]
    indices = [torch.randint(0, 64, (n,)) for n in counts]
    encoder, again = EscapeEncoder(top_k), EscapeEncoder(top_k)
    for p, index in zip(slices, indices, strict=True):
        encoder.push(p, index)
        again.push(p, index)
    streams = encoder.finish()
    assert again.finish() == streams
    decoder = EscapeDecoder(*streams, top_k)
    for p, index in zip(slices, indices, strict=True):
        assert torch.equal(decoder.pull(p), index)
    decoder.finish()


def test_equal_probabilities_go_by_index():
    codes, _ = top_rows(torch.full((2, 4096), 1 / 4096), 1000)
    assert torch.equal(codes, torch.arange(1000).expand(2, 1000))


def test_escape_stays_possible_where_all_mass_is_on_top():
    p = torch.zeros(3, 16)
    p[:, 2] = 1.0
    encoder = EscapeEncoder(4)
    encoder.push(p, torch.tensor([2, 15, 0]))
    assert EscapeDecoder(*encoder.finish(), 4).pull(p).tolist() == [2, 15, 0]


def test_size_is_near_the_code_length():
    p = random_probabilities(2000, 512)
    indices = p.multinomial(1)[:, 0]
    encoder = EscapeEncoder(128)
    encoder.push(p, indices)
    ideal = float(-p.gather(1, indices[:, None]).log2().sum())
    assert ideal < 8 * sum(map(len, encoder.finish())) < 1.01 * ideal + 64


@pytest.mark.golden
def test_model_and_coder_together_cost_what_the_authors_do_and_decode():
    """28 cached steps on either side; the first 12 slices alone decode too."""
    folder = GOLDEN / "rdvq_bitstream"
    stored = load_file(folder / "bitstream.safetensors")
    scalars = json.loads((folder / "scalars.json").read_text())
    weights = load_file(GOLDEN / "rdvq_autoencoder" / "model_quantizer_predictor.safetensors")
    model = MaskedEntropyModel(
        MaskedEntropyParams(
            codebook_size=128, codebook_dim=8, width=96, layers=2, heads=4, feed_forward_width=256
        )
    ).eval()
    own = {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
    model.load_state_dict(own)
    codebook = torch.nn.functional.normalize(weights["quantize.embedding.weight"], dim=1)
    indices, coded = stored["indices"], stored["mask_padded"] == 0

    for num_slices in (28, 12):
        expected = scalars[f"n{num_slices}"]
        encoder, bits = EscapeEncoder(scalars["topk"]), 0.0
        state, previous = model.begin(len(indices)), None
        for number in range(num_slices):
            tokens = model.tokens_of_slice(number)
            logits, real = model.step(state, previous), coded[:, tokens]
            encoder.push(logits[real].softmax(-1), indices[:, tokens][real])
            bits += float(code_length_bits(logits, indices[:, tokens])[real].sum())
            previous = codebook[indices[:, tokens]]
        streams = encoder.finish()
        assert bits == pytest.approx(expected["estimated_bits"], rel=1e-5)
        # Not the same bytes: a probability's last bit can move a slot.
        assert 8 * sum(map(len, streams)) == pytest.approx(expected["payload_bits"], abs=16)

        decoder = EscapeDecoder(*streams, scalars["topk"])
        decoded = torch.full_like(indices, scalars["padding_index"])
        state, previous = model.begin(len(indices)), None
        for number in range(num_slices):
            tokens = model.tokens_of_slice(number)
            logits, real = model.step(state, previous), coded[:, tokens]
            part = torch.full((len(indices), len(tokens)), scalars["padding_index"])
            part[real] = decoder.pull(logits[real].softmax(-1))
            decoded[:, tokens] = part
            previous = codebook[part]
        decoder.finish()
        sent = torch.cat([model.tokens_of_slice(n) for n in range(num_slices)])
        assert torch.equal(decoded[:, sent], indices[:, sent])


def test_broken_streams_are_bitstream_errors():
    p = random_probabilities(50, 64)
    encoder = EscapeEncoder(8)
    encoder.push(p, torch.randint(0, 64, (50,)))
    top, residual = encoder.finish()
    with pytest.raises(BitstreamError):
        EscapeDecoder(top[:2], residual, 8)
    for streams in ((top[:-3], residual), (top, residual[:-3])):
        with pytest.raises(BitstreamError, match="ends before"):
            EscapeDecoder(*streams, 8).pull(p)
    decoder = EscapeDecoder(top, residual + b"\0", 8)
    decoder.pull(p)
    with pytest.raises(BitstreamError, match="goes on"):
        decoder.finish()


@pytest.mark.parametrize(
    ("p", "indices", "top_k", "message"),
    [
        (torch.ones(4), torch.zeros(1), 2, r"float32 \[N, K\]"),
        (torch.ones(1, 4, dtype=torch.float64), torch.zeros(1), 2, "got torch.float64"),
        (torch.ones(1, 4), torch.zeros(1, dtype=torch.int64), 4, r"\[1, 4\), got 4"),
        (torch.ones(1, 4), torch.zeros(1, dtype=torch.int64), 0, "got 0"),
        (torch.ones(1, 4), torch.zeros(2, dtype=torch.int64), 2, r"indices must have shape \(1,\)"),
        (torch.ones(1, 4), torch.tensor([4]), 2, r"indices must be in \[0, 4\)"),
        (torch.ones(1, 4), torch.tensor([-1]), 2, "indices must be in"),
    ],
)
def test_bad_arguments_are_named(p, indices, top_k, message):
    with pytest.raises(ValueError, match=message):
        EscapeEncoder(top_k).push(p, indices)
