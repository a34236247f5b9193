# SPDX-License-Identifier: Apache-2.0
"""Integer operators: extremes, and that nothing but the numbers decides the result."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genaccel import ops, reference

sys.path.insert(0, str(Path(__file__).parents[1]))
from op_cases import OP_CASES

CASES = [case for case in OP_CASES if case.name.startswith("integer_")]
INT32 = torch.iinfo(torch.int32)


def filled(shape, value, dtype=torch.int8):
    return torch.full(shape, value, dtype=dtype)


def digest_of_all_cases():
    """One digest of every operator on every shape; run in other processes too."""
    torch.manual_seed(0)
    sha = hashlib.sha256()
    for case in CASES:
        for shape in case.shapes:
            inputs = case.make_inputs(torch.int8, **shape)
            output = getattr(torch.ops.genaccel, case.name).default(*inputs)
            sha.update(output.numpy().tobytes())
    return sha.hexdigest()


def test_number_of_threads_does_not_matter():
    one = digest_of_all_cases()
    torch.set_num_threads(2)
    assert digest_of_all_cases() == one


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_instruction_set_does_not_matter(capability):
    code = "import sys; sys.path[:0] = sys.argv[1:]; import test_integer; print(test_integer.digest_of_all_cases())"
    here = Path(__file__).parent
    printed = subprocess.run(
        # -P: the package as it is installed, or linked (tests/abi/run.sh), not the checkout.
        [sys.executable, "-P", "-c", code, str(here), str(here.parent)],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed.strip() == digest_of_all_cases()


class TestLinear:
    @pytest.mark.parametrize("bits", [8, 16, 32])
    @pytest.mark.parametrize("sign", [-128, 127])
    def test_largest_sums_saturate(self, device, bits, sign):
        x = filled((3, 4096), -128).to(device)
        weight = filled((5, 4096), sign).to(device)
        multiplier = torch.tensor([INT32.max, 2**30, 2**20, 1, 0], dtype=torch.int32)
        inputs = (x, weight, None, multiplier.to(device), 32, bits)
        expected = reference.integer_linear(*(t.cpu() if torch.is_tensor(t) else t for t in inputs))
        assert torch.equal(torch.ops.genaccel.integer_linear(*inputs).cpu(), expected)
        assert expected[0, 4] == 0
        if bits < 32:
            limits = torch.iinfo(expected.dtype)
            assert expected[0, 0] == (limits.max if sign < 0 else limits.min)

    def test_halves_round_up(self, device):
        x = torch.tensor([[1], [3], [-1], [-3]], dtype=torch.int8, device=device)
        one = filled((1, 1), 1).to(device)
        half = filled((1,), INT32.max // 2 + 1, torch.int32).to(device)  # 2**30
        quarters = ops.integer_linear(2 * x, one, half, 32)  # of 2, 6, -2, -6
        assert quarters.flatten().tolist() == [1, 2, 0, -1]

    def test_bias_wraps_around(self, device):
        one = filled((1, 1), 1).to(device)
        big = filled((1,), INT32.max, torch.int32).to(device)
        assert ops.integer_linear(one, one, big, 32, 32, bias=big).item() == -(2**30) + 1

    def test_leading_dimensions_and_views(self, device):
        x = torch.randint(-128, 128, (6, 2, 5), dtype=torch.int8, device=device).transpose(0, 1)
        weight = torch.randint(-128, 128, (5, 3), dtype=torch.int8, device=device).T
        multiplier = filled((3,), 2**30, torch.int32).to(device)
        actual = ops.integer_linear(x, weight, multiplier, 40)
        assert actual.shape == (2, 6, 3)
        rows = ops.integer_linear(x.reshape(12, 5), weight.contiguous(), multiplier, 40)
        assert torch.equal(actual.view(12, 3), rows)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"x": torch.ones(2, 4)}, TypeError, "x must be torch.int8"),
            ({"x": filled((2, 0), 1)}, ValueError, "1 to 32768 channels"),
            ({"weight": filled((3, 5), 1)}, ValueError, r"weight must have shape \(3, 4\)"),
            ({"multiplier": filled((3,), 1)}, TypeError, "multiplier must be torch.int32"),
            ({"multiplier": filled((2,), 1, torch.int32)}, ValueError, "multiplier must have"),
            ({"shift": 31}, ValueError, r"shift must be in \[32, 62\], got 31"),
            ({"shift": 40.0}, TypeError, "shift must be an int"),
            ({"output_bits": 4}, ValueError, "output_bits must be 8, 16 or 32"),
            ({"bias": filled((4,), 1, torch.int32)}, ValueError, "bias must have shape"),
        ],
    )
    def test_bad_arguments_are_named(self, change, error, message):
        arguments = {
            "x": filled((2, 4), 1),
            "weight": filled((3, 4), 1),
            "multiplier": filled((3,), 1, torch.int32),
            "shift": 40,
        }
        with pytest.raises(error, match=message):
            ops.integer_linear(**arguments | change)


class TestRmsNorm:
    @pytest.mark.parametrize("value", [INT32.min, INT32.max, 16384, 1, -1, 0])
    @pytest.mark.parametrize("gain", [1, 362, 8191])
    @pytest.mark.parametrize("epsilon", [0, 5, 2**62 - 1])
    def test_extreme_rows(self, device, value, gain, epsilon):
        x = filled((2, 128), value, torch.int32).to(device)
        x[1, ::2] = 0
        expected = reference.integer_rms_norm(x.cpu(), gain, epsilon)
        assert torch.equal(ops.integer_rms_norm(x, gain, epsilon).cpu(), expected)

    @pytest.mark.parametrize("scale", [30, 1000, 1e6, 3e8])
    def test_is_the_root_mean_square_norm(self, device, scale):
        x = torch.randn(50, 128, device=device).mul(scale).clamp(-2e9, 2e9).int()
        exact = x.double() / x.double().square().mean(dim=1, keepdim=True).sqrt() * 32
        actual = ops.integer_rms_norm(x, round(32 * 128**0.5))
        assert (actual.double() - exact.clamp(-128, 127)).abs().max() < 0.57

    def test_bad_arguments_are_named(self):
        x = filled((2, 4), 1, torch.int32)
        with pytest.raises(TypeError, match=r"x must be torch\.int32"):
            ops.integer_rms_norm(x.float(), 3)
        with pytest.raises(ValueError, match=r"gain must be in \[1, 8191\], got 0"):
            ops.integer_rms_norm(x, 0)
        with pytest.raises(ValueError, match="epsilon must be in"):
            ops.integer_rms_norm(x, 1, -1)


class TestRotateNormalize:
    @pytest.mark.parametrize("value", [-32768, 32767, 1, 0])
    @pytest.mark.parametrize("entry", [-32768, 32767, 0])
    def test_extreme_values(self, device, value, entry):
        x = filled((1, 2, 2, 8), value, torch.int16).to(device)
        rotations = filled((2, 4, 2), entry, torch.int16).to(device)
        rotations[1, ::2, 0] = 32767
        expected = reference.integer_rotate_normalize(x.cpu(), rotations.cpu())
        actual = ops.integer_rotate_normalize(x, rotations).cpu()
        assert torch.equal(actual, expected)
        if value == 0 or entry == 0:
            assert not actual[:, 0].any()

    def test_is_a_rotation_to_unit_length(self, device):
        x = torch.randint(-9000, 9000, (3, 5, 2, 32), dtype=torch.int16, device=device)
        angles = torch.rand(5, 16, device=device) * 6.3
        table = torch.stack([angles.cos(), angles.sin()], dim=-1)
        pairs = torch.view_as_complex(x.double().view(3, 5, 2, 16, 2))
        turned = torch.view_as_real(pairs * torch.view_as_complex(table.double())[:, None])
        exact = torch.nn.functional.normalize(turned.flatten(3), dim=-1) * 127
        actual = ops.integer_rotate_normalize(x, (table * 32767).round().short())
        assert (actual.double() - exact).abs().max() < 0.57

    def test_bad_arguments_are_named(self):
        x, rotations = filled((1, 2, 3, 4), 1, torch.int16), filled((2, 2, 2), 1, torch.int16)
        with pytest.raises(ValueError, match="even number of channels"):
            ops.integer_rotate_normalize(x[..., :3], rotations)
        with pytest.raises(ValueError, match=r"rotations must have shape \(2, 2, 2\)"):
            ops.integer_rotate_normalize(x, rotations[:1])
        with pytest.raises(TypeError, match=r"x must be torch\.int16"):
            ops.integer_rotate_normalize(x.int(), rotations)


class TestAttention:
    def inputs(self, device, batch=2, tokens=5, keys=40, heads=3, channels=32):
        query = torch.randint(-60, 60, (batch, tokens, heads, channels), dtype=torch.int8)
        key, value = torch.randint(-60, 60, (2, batch, keys, heads, channels), dtype=torch.int8)
        visible = torch.arange(1, tokens + 1, dtype=torch.int32) * (keys // tokens)
        temperature = torch.full((heads,), 3000, dtype=torch.int32)
        return [t.to(device) for t in (query, key, value, visible, temperature)]

    def test_is_softmax_attention(self, device):
        query, key, value, visible, temperature = self.inputs(device)
        scores = torch.einsum("bnhd,blhd->bhnl", query.double(), key.double()) * 3000 / 2**26
        hidden = torch.arange(40, device=device) >= visible[:, None]
        weights = (scores * 0.6931471805599453).masked_fill(hidden, -1e9).softmax(dim=-1)
        exact = torch.einsum("bhnl,blhd->bnhd", weights, value.double())
        actual = ops.integer_attention(query, key, value, visible, temperature)
        assert (actual.double() - exact).abs().max() < 0.55

    @pytest.mark.parametrize("fill", [-128, 127, 0])
    @pytest.mark.parametrize("temperature", [0, 1, INT32.max])
    @pytest.mark.parametrize("gain", [1, 16383])
    def test_extreme_values(self, device, fill, temperature, gain):
        query, key, value, visible, _ = self.inputs(device, keys=1023, channels=33)
        key[:, ::3], query[:, 0], value[:, 5:] = fill, fill, fill
        visible[0], visible[1], visible[2] = 0, -4, 2000
        heads = filled((3,), temperature, torch.int32).to(device)
        inputs = (query, key, value, visible, heads)
        expected = reference.integer_attention(*(t.cpu() for t in inputs), gain)
        actual = ops.integer_attention(*inputs, gain).cpu()
        assert torch.equal(actual, expected)
        assert not actual[:, :2].any()

    def test_hidden_keys_and_the_batch_do_not_matter(self, device):
        query, key, value, visible, temperature = self.inputs(device)
        every = ops.integer_attention(query, key, value, visible, temperature)
        first = ops.integer_attention(query[:1], key[:1], value[:1], visible, temperature)
        assert torch.equal(every[:1], first)
        changed = key.clone()
        changed[:, int(visible[1]) :] = 7
        again = ops.integer_attention(query, changed, value, visible, temperature)
        assert torch.equal(every[:, :2], again[:, :2])
        assert not torch.equal(every[:, 2:], again[:, 2:])

    @pytest.mark.parametrize(
        ("place", "value", "error", "message"),
        [
            (0, filled((2, 5, 3, 300), 1), ValueError, "1 to 256 channels, got 300"),
            (1, filled((2, 1024, 3, 32), 1), ValueError, "at most 1023 tokens"),
            (2, filled((2, 39, 3, 32), 1), ValueError, r"value must have shape \(2, 40, 3, 32\)"),
            (3, filled((5,), 1, torch.int64), TypeError, "visible must be torch.int32"),
            (4, filled((2,), 1, torch.int32), ValueError, r"temperature must have shape \(3,\)"),
        ],
    )
    def test_bad_arguments_are_named(self, place, value, error, message):
        inputs = self.inputs("cpu")
        inputs[place] = value
        with pytest.raises(error, match=message):
            ops.integer_attention(*inputs)


def test_gate_of_extreme_values(device):
    x = torch.tensor([[-128, 127, -128, -128], [127, -128, 0, 127]], dtype=torch.int8)
    table = torch.full((256,), -32768, dtype=torch.int16)
    table[255] = 32767
    for shift in (1, 15, 30):
        expected = reference.integer_gate(x, table, shift)
        assert torch.equal(ops.integer_gate(x.to(device), table.to(device), shift).cpu(), expected)
    with pytest.raises(ValueError, match="even number of channels"):
        ops.integer_gate(x[:, :3], table, 3)
    with pytest.raises(ValueError, match=r"shift must be in \[1, 30\]"):
        ops.integer_gate(x, table, 0)


class TestFrequencies:
    @pytest.mark.parametrize("low", [INT32.min, 0, INT32.max])
    @pytest.mark.parametrize("high", [INT32.min, INT32.max])
    @pytest.mark.parametrize("fraction_bits", [0, 10, 16])
    def test_extreme_logits(self, device, low, high, fraction_bits):
        logits = filled((2, 96), low, torch.int32).to(device)
        logits[:, 41] = high
        group = torch.tensor([3, 0], device=device)
        for size, chosen in ((1, None), (12, None), (12, group)):
            table = ops.integer_frequencies(logits, fraction_bits, size, chosen).cpu()
            of_cpu = None if chosen is None else chosen.cpu()
            expected = reference.integer_frequencies(logits.cpu(), fraction_bits, size, of_cpu)
            assert torch.equal(table, expected)
            assert (table.diff() >= 1).all()
            assert table[:, 0].eq(0).all()
            assert table[:, -1].eq(65536).all()

    def test_a_full_alphabet_has_one_slot_each(self, device):
        logits = torch.randn(1, 32768, device=device).mul(9000).int()
        table = ops.integer_frequencies(logits, 10)
        assert table.diff().min() == 1
        assert table[0, -1] == 65536

    def test_is_the_softmax(self, device):
        logits = torch.randn(20, 1024, device=device).mul(3)
        integers = (logits / 0.6931471805599453 * 1024).round().int()
        probabilities = logits.double().softmax(dim=1)
        bits = -probabilities.log2()
        one_step = ops.integer_frequencies(integers, 10).diff().double() / 65536
        cost = (probabilities * (-one_step.log2() - bits)).sum(dim=1).mean()
        assert 0 < cost < 0.025  # the slot that every symbol must have: 0.0227
        groups = ops.integer_frequencies(integers, 10, 32).diff().double() / 65536
        every = torch.arange(32, device=device).repeat_interleave(20)
        members = ops.integer_frequencies(integers.repeat(32, 1), 10, 32, every).diff() / 65536.0
        two_steps = groups[..., None] * members.view(32, 20, 32).transpose(0, 1)
        cost = (probabilities * (-two_steps.flatten(1).log2() - bits)).sum(dim=1).mean()
        assert 0 < cost < 0.003

    def test_groups_out_of_range(self):
        logits = torch.zeros(2, 8, dtype=torch.int32)
        with pytest.raises(RuntimeError, match=r"group must be in \[0, 3\], got 4"):
            ops.integer_frequencies(logits, 0, 2, torch.tensor([0, 4]))

    @pytest.mark.cuda
    def test_groups_out_of_range_are_the_first_on_a_gpu(self):
        logits = torch.randn(2, 8, device="cuda").mul(5).int()
        wrong, zero = (torch.tensor([g, g], device="cuda") for g in (4, 0))
        actual = ops.integer_frequencies(logits, 0, 2, wrong)
        assert torch.equal(actual, ops.integer_frequencies(logits, 0, 2, zero))

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((torch.zeros(2, 8), 0), TypeError, "logits must be torch.int32"),
            ((torch.zeros(2, 8).int(), 17), ValueError, r"fraction_bits must be in \[0, 16\]"),
            ((torch.zeros(2, 8).int(), 0, 3), ValueError, "divide the 8 symbols, got 3"),
            ((torch.zeros(2, 8).int(), 0, 2, torch.zeros(3).long()), ValueError, "group must have"),
            ((torch.zeros(2, 8).int(), 0, 2, torch.zeros(2).int()), TypeError, "group must be"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, error, message):
        with pytest.raises(error, match=message):
            ops.integer_frequencies(*arguments)
