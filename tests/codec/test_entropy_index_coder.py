# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from genaccel.codec.coding.entropy_index_coder import EntropyIndexCoder, group_size_of
from genaccel.errors import BitstreamError
from genaccel.models.integer_export import quantize
from genaccel.models.masked_entropy_model import MaskedEntropyModel, MaskedEntropyParams

TINY = MaskedEntropyParams(
    codebook_size=48,
    codebook_dim=4,
    num_scales=2,
    width=16,
    layers=2,
    heads=2,
    feed_forward_width=24,
    attends_own_slice=True,
)
SHAPES = [(6, 9), (12, 18)]  # 2 x 3 windows, some of them partly outside


def integer_model(codebook_size=48):
    torch.manual_seed(0)
    params = MaskedEntropyParams(**{**TINY.to_dict(), "codebook_size": codebook_size})
    model = MaskedEntropyModel(params).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    codebook = functional.normalize(torch.randn(codebook_size, 4), dim=1)
    return quantize(model, codebook, torch.randint(codebook_size, (4, 80)))


def random_maps(shapes=SHAPES, codebook_size=48):
    generator = np.random.default_rng(0)
    return [generator.integers(0, codebook_size, shape) for shape in shapes]


@pytest.mark.parametrize("shapes", [SHAPES, [(1, 1), (2, 2)], [(4, 4), (8, 8)], [(2, 7), (3, 14)]])
def test_round_trip(shapes, device):
    coder, maps = EntropyIndexCoder(integer_model().to(device)), random_maps(shapes)
    decoded = coder.decode(coder.encode(maps), shapes)
    for original, back in zip(maps, decoded, strict=True):
        assert back.dtype == np.int32
        np.testing.assert_array_equal(original, back)


@pytest.mark.parametrize("codebook_size", [2, 47, 64])
def test_any_codebook_size(codebook_size):
    coder = EntropyIndexCoder(integer_model(codebook_size))
    maps = random_maps(codebook_size=codebook_size)
    for original, back in zip(maps, coder.decode(coder.encode(maps), SHAPES), strict=True):
        np.testing.assert_array_equal(original, back)


def test_threads_do_not_matter_and_either_side_decodes_the_other():
    coder, maps = EntropyIndexCoder(integer_model()), random_maps()
    payload = coder.encode(maps)
    torch.set_num_threads(2)
    assert coder.encode(maps) == payload
    np.testing.assert_array_equal(coder.decode(payload, SHAPES)[1], maps[1])


@pytest.mark.cuda
def test_cuda_makes_the_bytes_of_the_cpu():
    model, maps = integer_model(), random_maps()
    payload = EntropyIndexCoder(model).encode(maps)
    coder = EntropyIndexCoder(model.cuda())
    assert coder.encode(maps) == payload
    np.testing.assert_array_equal(coder.decode(payload, SHAPES)[1], maps[1])


def test_size_is_that_of_the_logits():
    model = integer_model()
    shapes = [(16, 16), (32, 32)]
    generator = torch.Generator().manual_seed(0)
    windows = torch.zeros(16, 80, dtype=torch.int64)
    state, previous, bits = model.begin(16), None, 0.0
    for number in range(model.slice_order.num_slices):  # indices as the model expects them
        logits = model.step(state, previous).double() / 2**model.params.fraction_bits
        probabilities = torch.softmax(logits * np.log(2), dim=-1)
        flat = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator)
        previous = flat.view(16, -1)
        bits -= float(probabilities.gather(-1, previous[..., None]).log2().sum())
        windows[:, model.tokens_of_slice(number)] = previous
    coder = EntropyIndexCoder(model)
    maps = coder.grid(shapes).merge(windows)
    payload = coder.encode([m[0].numpy() for m in maps])
    assert bits / 8 < len(payload) < 1.005 * bits / 8 + 6


def test_groups():
    assert [group_size_of(k) for k in (2, 47, 1024, 4096, 1000)] == [1, 1, 32, 64, 25]


def test_wrong_indices_and_shapes_are_refused():
    coder, maps = EntropyIndexCoder(integer_model()), random_maps()
    with pytest.raises(ValueError, match=r"indices must be in \[0, 48\)"):
        coder.encode([maps[0] + 48, maps[1]])
    with pytest.raises(ValueError, match=r"indices must be in \[0, 48\)"):
        coder.encode([maps[0], maps[1] - 48])
    with pytest.raises(ValueError, match="one entry per scale"):
        coder.encode(maps[:1])
    with pytest.raises(ValueError, match="not covered by one grid"):
        coder.decode(b"", [(4, 4), (16, 8)])


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: b"",
        lambda payload: payload[:-2],
        lambda payload: payload + b"\0\0",
        lambda payload: bytes([payload[0] ^ 1]) + payload[1:],
    ],
)
def test_damaged_payloads_are_refused(change):
    coder = EntropyIndexCoder(integer_model())
    payload = coder.encode(random_maps())
    with pytest.raises(BitstreamError):
        coder.decode(change(payload), SHAPES)
