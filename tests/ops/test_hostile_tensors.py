# SPDX-License-Identifier: Apache-2.0
"""Tensors that begin anywhere, that have no elements, or whose numbers are out of range."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genaccel import ops, reference

sys.path.insert(0, str(Path(__file__).parents[1]))
from op_cases import OP_CASES

every_case = pytest.mark.parametrize("case", OP_CASES, ids=lambda case: case.name)


def op(case):
    return getattr(torch.ops.genaccel, case.name).default


def each(inputs, change):
    """The inputs, with every tensor of elements changed; lists too."""

    def changed(value):
        if isinstance(value, list):
            return [changed(v) for v in value]
        return change(value) if torch.is_tensor(value) and value.numel() else value

    return tuple(changed(value) for value in inputs)


def one_element_on(tensor):
    """A view with the same values, one element behind the start of its memory."""
    view = torch.cat([tensor.new_zeros(1), tensor.reshape(-1)])[1:].view(tensor.shape)
    assert view.is_contiguous()
    assert view.storage_offset() == 1
    return view


def misaligned(tensor):
    """The same values, one byte off."""
    data = bytearray(tensor.nbytes + 1)
    data[1:] = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return torch.frombuffer(data, dtype=tensor.dtype, offset=1).view(tensor.shape)


def assert_equal(actual, expected):
    for a, e in zip(torch.utils._pytree.tree_leaves(actual), expected, strict=True):
        assert torch.equal(a, e)


@every_case
def test_a_view_that_begins_anywhere_gives_the_same(case, device):
    shape = max(case.shapes, key=lambda shape: max(shape.values()))
    inputs = each(case.make_inputs(case.dtypes[0], **shape), lambda t: t.to(device))
    expected = case.results(op(case), inputs)
    torch.testing.assert_close(case.results(op(case), each(inputs, one_element_on)), expected)


@every_case
def test_misaligned_tensors_are_refused(case):
    shape = max(case.shapes, key=lambda shape: max(shape.values()))
    inputs = case.make_inputs(case.dtypes[0], **shape)
    with pytest.raises(RuntimeError, match=r"aligned to its elements of [248] bytes"):
        op(case)(*each(inputs, misaligned))


@every_case
def test_an_op_writes_to_what_its_schema_says_and_its_name_tells(case):
    """The others return new tensors: no argument can overlap with what they write."""
    schema = op(case)._schema
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info is not None]
    assert written == list(case.writes_to)
    assert schema.is_mutable == bool(written) == case.name.endswith("_")
    assert [r.name for r in schema.returns if r.alias_info is not None] == []
    shape = max(case.shapes, key=lambda shape: max(shape.values()))
    inputs = case.make_inputs(case.dtypes[0], **shape)
    before = each(inputs, torch.clone)
    op(case)(*inputs)
    for i, pair in enumerate(zip(inputs, before, strict=True)):
        flat, flat_before = (torch.utils._pytree.tree_leaves(value) for value in pair)
        if i not in written:
            torch.testing.assert_close(flat, flat_before, atol=0, rtol=0, equal_nan=True)


class TestWhatIsWrittenTo:
    """An op that works in place moves rows 2 and 4 of five to 1 and 2."""

    moves = (torch.tensor([[2, 4]] * 2), torch.tensor([1, 1]), torch.tensor([2, 2]))

    def refused(self, states, moves=moves):
        before = [tensor.clone() for tensor in states]
        with pytest.raises(RuntimeError, match="overlap"):
            torch.ops.genaccel.compact_rows_(states, *moves)
        assert_equal(list(states), before)

    def test_may_not_overlap_itself(self):
        self.refused([torch.randn(1, 3, 5, 4).expand(2, -1, -1, -1)])
        self.refused([torch.randn(2, 1, 5, 4).expand(-1, 3, -1, -1)])
        self.refused([torch.randn(200).as_strided((2, 3, 5, 4), (60, 20, 3, 1))])
        self.refused([torch.randn(200).as_strided((2, 3, 5, 4), (20, 20, 4, 1))])

    def test_may_not_overlap_other_states(self):
        states = torch.randn(3, 3, 5, 4)
        self.refused([states[:2], states[1:]])
        self.refused([states[:2], torch.randn(2, 3, 5, 4), states[:2]])

    def test_may_not_overlap_the_indices(self):
        memory = torch.randint(5, (2 * 3 * 5 * 4,))
        memory[7:11] = self.moves[0].flatten()
        moves = (memory[7:11].view(2, 2), *self.moves[1:])
        self.refused([memory.view(2, 3, 5, 4)], moves)
        self.refused([memory.view(torch.bfloat16).view(2, 3, 5, 16)], moves)

    def test_may_have_any_strides_otherwise(self, device):
        first = torch.randn(5, 2, 3, 4, device=device)
        for states in (
            first.permute(1, 2, 0, 3),
            torch.randn(2, 3, 9, 6, device=device)[:, :, 2:7, 1:5],
            torch.randn(2, 5, 4, device=device)[:, None].expand(-1, 1, -1, -1),
        ):
            expected = states.cpu().clone()
            expected[:, :, 1:3] = expected[:, :, [2, 4]]
            torch.ops.genaccel.compact_rows_([states], *(m.to(device) for m in self.moves))
            assert torch.equal(states.cpu(), expected)

    def test_indices_may_share_memory(self):
        same = torch.tensor([1, 1])
        states = torch.arange(5.0).view(1, 1, 5, 1).repeat(2, 1, 1, 1)
        torch.ops.genaccel.compact_rows_([states], torch.tensor([[2], [3]]), same, same)
        assert states.flatten().tolist() == [0, 2, 2, 3, 4, 0, 3, 2, 3, 4]

    @pytest.mark.parametrize(
        ("sources", "start", "count", "message"),
        [
            ([2, 5], 1, 2, "sources must rise, from their targets on, below 5, got 5"),
            ([2, -1], 1, 2, "got -1 where at least 3"),
            ([3, 3], 1, 2, "got 3 where at least 4"),
            ([1, 4], 2, 2, "got 1 where at least 2"),
            ([2, 4], 4, 2, r"starts must be in \[0, 3\], got 4"),
            ([2, 4], -1, 2, r"starts must be in \[0, 3\], got -1"),
            ([2, 4], 1, 3, r"counts must be in \[0, 2\], got 3"),
            ([2, 4], 1, -1, r"counts must be in \[0, 2\], got -1"),
        ],
    )
    def test_moves_that_do_not_exist_are_refused_or_on_a_gpu_left_out(
        self, sources, start, count, message, device
    ):
        moves = [
            torch.tensor(m, device=device) for m in ([[2, 4], sources], [1, start], [2, count])
        ]
        states = torch.randn(2, 3, 5, 4, device=device)
        before = states.clone()
        if device.type == "cpu":
            with pytest.raises(RuntimeError, match=message):
                torch.ops.genaccel.compact_rows_([states], *moves)
            assert torch.equal(states, before)
        else:
            torch.ops.genaccel.compact_rows_([states], *moves)
            assert torch.equal(states[0, :, 1:3], before[0, :, [2, 4]])


def test_many_rows_of_nothing_take_no_time():
    """Their number may not even fit 64 bits. In a process of its own, which can be ended."""
    code = """
import torch, genaccel.ops
def empty(*sizes, dtype=torch.int8):
    return torch.empty(sizes, dtype=dtype)
many, native = 2**40, torch.ops.genaccel
table = empty(256, dtype=torch.int16)
assert native.integer_gate(empty(many, 0), table, 8).shape == (many, 0)
x, turns = empty(many, 2**20, 0, 2, dtype=torch.int16), empty(2**20, 1, 2, dtype=torch.int16)
assert native.integer_rotate_normalize(x, turns).numel() == 0
none, ints = empty(2**42, 0, 2**20, 1), torch.ones(2**20, dtype=torch.int32)
assert native.integer_attention(none, none, none, ints[:0], ints, 256).numel() == 0
assert native.select_tokens(torch.empty(many, 0), 0, 1).shape == (many, 0)
none, long = empty(0, dtype=torch.long), torch.zeros(1, dtype=torch.long)
native.compact_rows_([torch.empty(0, 2, 2**20, 2**20)], none.view(0, 4), none, none)
native.compact_rows_([torch.empty(1, 2**20, 2**20, 0)], long.view(1, 1), long, long)
paths = torch.empty(1, many, 0, dtype=torch.long)
assert native.path_similarity(paths, torch.ones(1, 1), torch.empty(0).double()).tolist() == [0]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("hidden", [-(2**31), -(2**31) + 8, -1, 0])
def test_a_query_that_sees_no_keys_gives_zeros_beside_one_that_does(hidden, device):
    query, key = torch.full((1, 4, 1, 5), 3, dtype=torch.int8), torch.ones(1, 40, 1, 5).char()
    value = torch.full_like(key, 100)
    visible = torch.tensor([40, hidden, hidden, 7], dtype=torch.int32)
    inputs = [t.to(device) for t in (query, key, value, visible, torch.tensor([0]).int())]
    out = ops.integer_attention(*inputs)
    assert torch.equal(
        out.cpu(), reference.integer_attention(query, key, value, visible, inputs[4].cpu(), 256)
    )
    assert out[0, :, 0, 0].tolist() == [100, 0, 0, 100]


@pytest.mark.parametrize("output_bits", [8, 16, 32])
@pytest.mark.parametrize("outputs", [1, 16, 17])
def test_biases_at_the_ends_wrap_around_as_in_the_reference(output_bits, outputs, device):
    x = torch.full((3, 300), -128, dtype=torch.int8)
    weight = torch.full((outputs, 300), -128, dtype=torch.int8)
    weight[::2] = 127
    bias = torch.tensor([-(2**31), 2**31 - 1, -1] * 6, dtype=torch.int32)[:outputs]
    multiplier = torch.full((outputs,), 2**31 - 1, dtype=torch.int32)
    inputs = (x, weight, bias, multiplier, 40, output_bits)
    expected = reference.integer_linear(*inputs)
    on_device = [t.to(device) if torch.is_tensor(t) else t for t in inputs]
    assert torch.equal(torch.ops.genaccel.integer_linear(*on_device).cpu(), expected)


def soft_backward(indices, device):
    torch.manual_seed(0)
    features, codebook, logits = (torch.randn(s, device=device) for s in ((4, 3), (9, 3), (4, 9)))
    forward = torch.ops.genaccel.soft_cross_entropy(features, codebook, logits, 0.5)
    return torch.ops.genaccel.soft_cross_entropy_backward(
        torch.ones(4, device=device), features, codebook, logits, indices.to(device), forward[2],
        0.5, True, True, True,
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [-1, 9, 2**63 - 1, -(2**63)])
def test_indices_of_no_code_word_are_refused_or_on_a_gpu_the_first(wrong, device):
    indices = torch.tensor([0, 8, wrong, 1])
    if device.type == "cpu":
        with pytest.raises(RuntimeError, match=r"indices must be in \[0, 8\]"):
            soft_backward(indices, device)
        return
    first = soft_backward(torch.tensor([0, 8, 0, 1]), device)
    assert_equal(soft_backward(indices, device), first)
