# SPDX-License-Identifier: Apache-2.0
"""Partial steps on real blocks: what is forecast, what is computed anew, and for which tokens."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel

from genaccel.hooks.attachment import Attachment, CacheBudgetError
from genaccel.hooks.block_lists import find_block_lists
from genaccel.hooks.direction import Decision
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.partial_steps import OFF, PartialStep, PartialSteps
from genaccel.hooks.report import report_of

sys.path.insert(0, str(Path(__file__).parent))
from scripted import ScriptedClock, ScriptedDirector

TOKENS = 16
LAYERS = 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    built = DiTTransformer2DModel(
        sample_size=8,
        num_layers=LAYERS,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
    ).eval()
    for parameter in built.parameters():
        parameter.data.normal_(std=0.1)
    return built


def run(model, seed, timestep=500):
    states = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([1, 2])
    with torch.no_grad():
        return model(states, timestep=torch.tensor([timestep] * 2), class_labels=labels).sample


def watched(model, score="mean"):
    """Hooks that have watched one call; all blocks are in one segment."""
    modules = PartialSteps(find_block_lists(model), score=score)
    with FlopCount() as counter:
        modules.watching_begins(counter)
        run(model, 0)
    modules.watching_ends()
    for layer in modules.layers:
        layer.segment = 0
    return modules


def compute(modules, model, seed, step, history=1):
    modules.begin_call(0, step, None, partial={}, stores=[0])
    output = run(model, seed)
    modules.end_call(history=history)
    return output


def partially(modules, model, seed, step, count, weights=(1.0,)):
    partial = {0: PartialStep((count,) * LAYERS, weights)}
    modules.begin_call(0, step, None, partial=partial)
    output = run(model, seed)
    modules.end_call(history=1, updates=[0] if weights == (1.0,) else [])
    return output


def test_one_call_tells_tokens_and_costs(model):
    modules = watched(model)
    for layer in modules.layers:
        assert layer.is_usable
        assert layer.num_tokens == TOKENS
        assert layer.feed_forward_flops == 2 * 2 * TOKENS * 16 * 64 * 2
        assert layer.attention_flops > 0


@pytest.mark.parametrize("count", [0, 5, TOKENS])
def test_partial_steps_of_equal_input_repeat_the_computed_step(model, count):
    modules = watched(model)
    computed = compute(modules, model, 0, 0)
    torch.testing.assert_close(partially(modules, model, 0, 1, count), computed)


def test_more_tokens_come_closer_to_cached_attention_with_all_of_them(model):
    outputs = []
    for count in (0, 8, TOKENS):
        modules = watched(model)
        compute(modules, model, 0, 0)
        outputs.append(partially(modules, model, 3, 1, count))
        modules.detach()
    assert (outputs[1] - outputs[2]).norm() < (outputs[0] - outputs[2]).norm()


def test_computed_tokens_replace_what_is_kept_of_them(model):
    modules = watched(model)
    compute(modules, model, 0, 0)
    first = partially(modules, model, 3, 1, TOKENS)
    # Reuse of the step before, whose feed-forwards computed every token of the same input.
    torch.testing.assert_close(partially(modules, model, 3, 2, 0), first)


def test_modules_are_extrapolated(model):
    modules = watched(model)
    compute(modules, model, 0, 0, history=2)
    before = {i: modules._streams[0][i].outputs[0] for i in range(LAYERS)}
    compute(modules, model, 1, 1, history=2)
    assert modules.steps_kept(0, 0) == [1, 0]
    newest = {i: modules._streams[0][i].outputs[0] for i in range(LAYERS)}
    modules.begin_call(0, 2, None, partial={0: PartialStep((0,) * LAYERS, (2.0, -1.0))})
    for i in range(LAYERS):
        for place, (made,) in modules.forecasts[i].items():
            torch.testing.assert_close(made, 2 * newest[i][place][0] - before[i][place][0])


def test_the_feed_forward_costs_its_share_of_tokens(model):
    modules = watched(model)
    with FlopCount() as whole:
        compute(modules, model, 1, 0)
    with FlopCount() as partial:
        partially(modules, model, 1, 1, 4)
    assert whole.total - partial.total == sum(layer.saved_flops(4) for layer in modules.layers)


@pytest.mark.parametrize("score", ["mean", "drift", "random"])
def test_scores_repeat_themselves(model, score):
    results = []
    for _ in range(2):
        modules = watched(model, score)
        compute(modules, model, 0, 0)
        results.append(partially(modules, model, 4, 1, 4))
        modules.detach()
    assert torch.equal(*results)


def test_scores_choose_differently(model):
    chosen = []
    for score in ("mean", "drift", "random"):
        modules = watched(model, score)
        compute(modules, model, 0, 0)
        modules.begin_call(0, 1, None, partial={0: PartialStep((4,) * LAYERS)})
        run(model, 4)
        chosen.append(torch.stack(modules.chosen))
        modules.detach()
    assert not torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_halves_of_guidance_share_their_tokens(model):
    modules = watched(model)
    modules.begin_call(0, 0, torch.ones(2, 4, 8, 8), partial={}, stores=[0])
    assert modules.groups == 2
    index = modules.choose(0, torch.randn(2, TOKENS, 16), 5)
    assert torch.equal(index[0], index[1])


def test_calls_of_one_step_share_their_tokens(model):
    modules = watched(model)
    modules.begin_call(0, 1, None, partial={})
    first = modules.choose(1, torch.randn(2, TOKENS, 16), 5)
    modules.begin_call(1, 1, None, partial={})
    assert torch.equal(modules.choose(1, torch.randn(2, TOKENS, 16), 5), first)
    modules.begin_call(0, 2, None, partial={})
    assert not torch.equal(modules.choose(1, torch.randn(2, TOKENS, 16), 5), first)


def test_detaching_restores_the_model(model):
    before = run(model, 2)
    modules = watched(model)
    compute(modules, model, 0, 0)
    partially(modules, model, 2, 1, 2)
    assert modules.bytes_held > 0
    modules.detach()
    assert modules.bytes_held == 0
    assert torch.equal(run(model, 2), before)
    assert not any("forward" in vars(module) for module in model.modules())


class PartialDirector(ScriptedDirector):
    """Computes the steps of a mask, and runs the others on forecasts of their modules."""

    wants_layers = True

    def __init__(self, mask, *, count, history):
        super().__init__(mask, history=0)
        self.module_history = history
        self.count = count
        self.layers = ()

    def segments_learned(self, segments, layers, *, total_flops):
        super().segments_learned(segments, layers, total_flops=total_flops)
        self.layers = tuple(layers)

    def _decision(self, tick, segment, memory):
        if self.mask[tick.step]:
            return super()._decision(tick, segment, memory)
        steps = memory.module_steps
        weights = (1.0,) if len(steps) < 2 or self.module_history < 2 else (2.0, -1.0)
        counts = (self.count,) * sum(layer.segment == segment for layer in self.layers)
        return Decision(compute=False, partial=PartialStep(counts, weights))


def attached(model, mask, *, count=4, history=1, **options):
    director = PartialDirector(mask, count=count, history=history)
    return Attachment(model, ScriptedClock(len(mask)), director, **options)


def test_an_attachment_runs_partial_steps_and_reports_them(model):
    plain = [run(model, s) for s in range(4)]
    attachment = attached(model, [1, 0, 1, 0])
    outputs = [run(model, s) for s in range(4)]
    for step in (0, 2):
        assert torch.equal(outputs[step], plain[step])
    for step in (1, 3):
        assert not torch.equal(outputs[step], plain[step])
    report = report_of(attachment)
    assert report.schedule == "CpCp"
    assert (report.computed_segments, report.forecast_segments, report.partial_segments) == (
        2,
        0,
        2,
    )
    saved = sum(layer.saved_flops(4) for layer in attachment.partial_steps.layers)
    assert report.plain_flops - report.flops == 2 * saved
    assert report.peak_bytes >= attachment.bytes_held > 0
    attachment.detach()
    assert torch.equal(run(model, 1), plain[1])


def test_planned_flops_are_those_that_run(model):
    attachment = attached(model, [1, 0, 0])
    run(model, 0)
    with FlopCount() as counter:
        run(model, 1)
    assert counter.total == attachment.total_flops - attachment.records[1].saved_flops


class NormPoison(torch.nn.Module):
    """A norm whose output is NaN when asked for."""

    def __init__(self, norm):
        super().__init__()
        self.inner = [norm]  # no submodule
        self.is_poisoned, self.tokens = False, 0

    def forward(self, states):
        self.tokens += states.shape[1]
        return self.inner[0](states) * (torch.nan if self.is_poisoned else 1.0)


def with_poisoned_norms(model):
    norms = []
    for block in model.transformer_blocks:
        for owner, name in ((block.norm1, "norm"), (block, "norm3")):
            setattr(owner, name, NormPoison(getattr(owner, name)))
            norms.append(getattr(owner, name))
    return norms


@pytest.mark.parametrize("count", [0, 4])
def test_partial_steps_leave_out_the_norms_that_only_forecast_modules_read(model, count):
    norms = with_poisoned_norms(model)
    expected = [run(model, s) for s in range(3)]
    attachment = attached(model, [1, 0, 0], count=count)
    outputs = [run(model, 0)]
    assert torch.equal(outputs[0], expected[0])
    for norm in norms:
        norm.tokens = 0
    # Norms in front of attention, and where no token is computed, those of the feed-forwards too.
    for norm in norms[::2] if count else norms:
        norm.is_poisoned = True
    outputs += [run(model, s) for s in (1, 2)]
    assert all(torch.isfinite(output).all() for output in outputs)
    assert [norm.tokens for norm in norms[::2]] == [0] * LAYERS
    assert [norm.tokens for norm in norms[1::2]] == [2 * TOKENS if count else 0] * LAYERS
    attachment.detach()
    assert not torch.isfinite(run(model, 1)).all()


def test_a_norm_that_something_else_reads_is_computed(model):
    class NormOfStates(torch.nn.Module):
        """Added to the states too, as in blocks with norms behind their modules."""

        def forward(self, states):
            return states * 0.5

    for block in model.transformer_blocks:
        norm, block.norm3 = block.norm3, torch.nn.Identity()
        block.norm3 = NormOfStates()
        plain = block.forward

        def forward(states, *args, block=block, plain=plain, norm=norm, **kwargs):
            return plain(states, *args, **kwargs) + block.norm3(states)

        block.forward = forward
    expected = run(model, 0)
    attachment = attached(model, [1, 0], count=0)
    run(model, 0)
    torch.testing.assert_close(run(model, 0), expected)  # of equal input, reuse is exact
    attachment.detach()
    torch.testing.assert_close(run(model, 0), expected)


def test_a_norm_of_two_blocks_is_computed(model):
    norms = with_poisoned_norms(model)
    model.transformer_blocks[1].norm3 = model.transformer_blocks[0].norm3
    expected = run(model, 0)
    attachment = attached(model, [1, 0], count=0)
    run(model, 0)
    norms[1].tokens = norms[5].tokens = 0
    torch.testing.assert_close(run(model, 0), expected)
    assert (norms[1].tokens, norms[5].tokens) == (2 * TOKENS, 0)
    attachment.detach()
    assert torch.equal(run(model, 0), expected)


def test_a_new_shape_computes_in_full(model):
    attachment = attached(model, [1, 0, 0])
    run(model, 0)
    states = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        output = model(states, timestep=torch.tensor([1]), class_labels=torch.tensor([1])).sample
    assert attachment.records[1].computed == (True,)
    attachment.detach()
    with torch.no_grad():
        plain = model(states, timestep=torch.tensor([1]), class_labels=torch.tensor([1])).sample
    assert torch.equal(output, plain)


def test_the_budget_lowers_the_order_then_refuses(model):
    attachment = attached(model, [1, 1, 0], history=2)
    run(model, 0)
    one = attachment.bytes_held
    attachment.detach()
    attachment = attached(model, [1, 1, 0], history=2, max_bytes=int(1.5 * one))
    for step in range(3):
        run(model, step)
    assert attachment.peak_bytes <= 1.5 * one
    assert attachment.records[2].partial == (True,)
    attachment.detach()
    attached(model, [1, 1, 0], history=2, max_bytes=one // 2)
    with pytest.raises(CacheBudgetError, match="cache_megabytes"):
        run(model, 0)


@pytest.mark.parametrize("count", [0, 4])
def test_a_compiled_run_has_one_graph_a_kind_and_equals_eager(model, count):
    attachment = attached(model, [1, 0, 0, 1, 0, 0], count=count, history=2)
    eager = [run(model, s) for s in range(6)]
    graphs = []

    def count_graphs(module, example_inputs):
        graphs.append(module)
        return module

    torch.compiler.reset()
    attachment.compile(fullgraph=True, backend=count_graphs)
    for _ in range(2):
        for s in range(6):
            torch.testing.assert_close(run(model, s), eager[s])
    assert 2 <= len(graphs) <= 3
    assert attachment.partial_steps.modes == [OFF] * LAYERS or attachment.partial_steps.depth == 2
