# SPDX-License-Identifier: Apache-2.0
"""Partial steps on real blocks: what is forecast, what is computed anew, and for which tokens."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel

from genaccel.hooks.blocks import CallFrame, CurrentFrame, find_block_lists
from genaccel.hooks.director import Decision
from genaccel.hooks.engine import Engine
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.report import report_of
from genaccel.hooks.submodule_memory import SubmoduleMemory
from genaccel.hooks.submodules import (
    LayerWatcher,
    PartialStep,
    SubmoduleFrame,
    SubmoduleHooks,
)

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


class Watched:
    """Hooks that have watched one call, and the memory of a run; all blocks are in one segment.

    Attributes:
        layers: What was learned.
        memory: Of the run.
        frame: Of the last call.
    """

    def __init__(self, model, score="mean"):
        self.model = model
        self.current = CurrentFrame()
        self.hooks = SubmoduleHooks(find_block_lists(model), self.current)
        with FlopCount() as counter:
            watcher = LayerWatcher(self.hooks, counter)
            frame = SubmoduleFrame(None, LAYERS)
            frame.watcher = watcher
            self._run(frame, 0)
        self.layers = watcher.finish()
        for layer in self.layers:
            layer.segment = 0
        self.memory = SubmoduleMemory(self.layers, score=score)
        self.frame = frame

    def _run(self, frame, seed):
        self.current.frame = CallFrame()
        self.current.frame.submodules = frame
        try:
            return run(self.model, seed)
        finally:
            self.current.frame = None

    def begin(self, step, *, stream=0, states=None, partial=None, stores=()):
        self.frame = SubmoduleFrame(self.memory, LAYERS)
        self.memory.begin_call(
            self.frame, stream, step, states, partial=partial or {}, stores=stores
        )

    def compute(self, seed, step, history=1):
        """A call that is computed and kept."""
        self.begin(step, stores=[0])
        output = self._run(self.frame, seed)
        self.memory.end_call(self.frame, history=history)
        return output

    def partially(self, seed, step, count, weights=(1.0,)):
        """A call on forecasts."""
        self.begin(step, partial={0: PartialStep((count,) * LAYERS, weights)})
        output = self._run(self.frame, seed)
        updates = [0] if weights == (1.0,) else []
        self.memory.end_call(self.frame, history=1, updates=updates)
        return output

    def kept(self):
        """What was kept last of each submodule, by layer and place."""
        return {i: kept.outputs[0] for i, kept in enumerate(self.memory._streams[0])}


def test_one_call_tells_tokens_and_costs(model):
    watched = Watched(model)
    for layer in watched.layers:
        assert layer.is_usable
        assert layer.num_tokens == TOKENS
        assert layer.feed_forward_flops == 2 * 2 * TOKENS * 16 * 64 * 2
        assert layer.attention_flops > 0


@pytest.mark.parametrize("count", [0, 5, TOKENS])
def test_partial_steps_of_equal_input_repeat_the_computed_step(model, count):
    watched = Watched(model)
    computed = watched.compute(0, 0)
    torch.testing.assert_close(watched.partially(0, 1, count), computed)


def test_more_tokens_come_closer_to_cached_attention_with_all_of_them(model):
    outputs = []
    for count in (0, 8, TOKENS):
        watched = Watched(model)
        watched.compute(0, 0)
        outputs.append(watched.partially(3, 1, count))
        watched.hooks.detach()
    assert (outputs[1] - outputs[2]).norm() < (outputs[0] - outputs[2]).norm()


def test_computed_tokens_replace_what_is_kept_of_them(model):
    watched = Watched(model)
    watched.compute(0, 0)
    first = watched.partially(3, 1, TOKENS)
    # Reuse of the step before, whose feed-forwards computed every token of the same input.
    torch.testing.assert_close(watched.partially(3, 2, 0), first)


def test_submodules_are_extrapolated(model):
    watched = Watched(model)
    watched.compute(0, 0, history=2)
    before = watched.kept()
    watched.compute(1, 1, history=2)
    assert watched.memory.steps_kept(0, 0) == [1, 0]
    newest = watched.kept()
    watched.begin(2, partial={0: PartialStep((0,) * LAYERS, (2.0, -1.0))})
    for i in range(LAYERS):
        assert len(watched.frame.forecasts[i]) == 2
        for place, (made,) in watched.frame.forecasts[i].items():
            torch.testing.assert_close(made, 2 * newest[i][place][0] - before[i][place][0])


def test_the_feed_forward_costs_its_share_of_tokens(model):
    watched = Watched(model)
    with FlopCount() as whole:
        watched.compute(1, 0)
    with FlopCount() as partial:
        watched.partially(1, 1, 4)
    assert whole.total - partial.total == sum(layer.saved_flops(4) for layer in watched.layers)


@pytest.mark.parametrize("score", ["mean", "drift", "random"])
def test_scores_repeat_themselves(model, score):
    results = []
    for _ in range(2):
        watched = Watched(model, score)
        watched.compute(0, 0)
        results.append(watched.partially(4, 1, 4))
        watched.hooks.detach()
    assert torch.equal(*results)


def test_scores_choose_differently(model):
    chosen = []
    for score in ("mean", "drift", "random"):
        watched = Watched(model, score)
        watched.compute(0, 0)
        watched.partially(4, 1, 4)
        chosen.append(torch.stack(watched.memory._chosen))
        watched.hooks.detach()
    assert not torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_halves_of_guidance_share_their_tokens(model):
    watched = Watched(model)
    watched.begin(0, states=torch.ones(2, 4, 8, 8), stores=[0])
    index = watched.memory.choose(0, torch.randn(2, TOKENS, 16), 5)
    assert torch.equal(index[0], index[1])
    watched.hooks.detach()
    # Halves that differ are two images.
    other = Watched(model)
    other.begin(0, states=torch.randn(2, 4, 8, 8), stores=[0])
    index = other.memory.choose(0, torch.randn(2, TOKENS, 16), 5)
    assert not torch.equal(index[0], index[1])


def test_calls_of_one_step_share_their_tokens(model):
    watched = Watched(model)
    watched.begin(1)
    first = watched.memory.choose(1, torch.randn(2, TOKENS, 16), 5)
    watched.begin(1, stream=1)
    assert torch.equal(watched.memory.choose(1, torch.randn(2, TOKENS, 16), 5), first)
    watched.begin(2)
    assert not torch.equal(watched.memory.choose(1, torch.randn(2, TOKENS, 16), 5), first)


def test_detaching_restores_the_model(model):
    before = run(model, 2)
    watched = Watched(model)
    watched.compute(0, 0)
    watched.partially(2, 1, 2)
    assert watched.memory.bytes_held > 0
    watched.memory.forget(0)
    assert watched.memory.bytes_held == 0
    watched.hooks.detach()
    assert torch.equal(run(model, 2), before)
    assert not any("forward" in vars(module) for module in model.modules())


class PartialDirector(ScriptedDirector):
    """Computes the steps of a mask, and runs the others on forecasts of their submodules."""

    wants_submodules = True

    def __init__(self, mask, *, count, history):
        super().__init__(mask, history=0)
        self.submodule_history = history
        self.count = count
        self.layers = ()

    def learn(self, tick, structure):
        super().learn(tick, structure)
        self.layers = structure.layers

    def _decision(self, tick, segment, memory):
        if self.mask[tick.step]:
            return super()._decision(tick, segment, memory)
        steps = memory.submodule_steps
        weights = (1.0,) if len(steps) < 2 or self.submodule_history < 2 else (2.0, -1.0)
        counts = (self.count,) * sum(layer.segment == segment for layer in self.layers)
        return Decision(compute=False, partial=PartialStep(counts, weights))


def attached(model, mask, *, count=4, history=1, **options):
    director = PartialDirector(mask, count=count, history=history)
    return Engine(model, ScriptedClock(len(mask)), director, **options)


def test_an_engine_runs_partial_steps_and_reports_them(model):
    plain = [run(model, s) for s in range(4)]
    engine = attached(model, [1, 0, 1, 0])
    outputs = [run(model, s) for s in range(4)]
    for step in (0, 2):
        assert torch.equal(outputs[step], plain[step])
    for step in (1, 3):
        assert not torch.equal(outputs[step], plain[step])
    report = report_of(engine)
    assert report.schedule == "CpCp"
    assert (report.computed_segments, report.forecast_segments, report.partial_segments) == (
        2,
        0,
        2,
    )
    saved = sum(layer.saved_flops(4) for layer in engine.structure.layers)
    assert report.plain_flops - report.flops == 2 * saved
    assert report.peak_bytes >= engine.bytes_held > 0
    engine.detach()
    assert torch.equal(run(model, 1), plain[1])


def test_planned_flops_are_those_that_run(model):
    engine = attached(model, [1, 0, 0])
    run(model, 0)
    with FlopCount() as counter:
        run(model, 1)
    assert counter.total == engine.total_flops - engine.records[1].saved_flops


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
def test_partial_steps_leave_out_the_norms_that_only_forecast_submodules_read(model, count):
    norms = with_poisoned_norms(model)
    expected = [run(model, s) for s in range(3)]
    engine = attached(model, [1, 0, 0], count=count)
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
    engine.detach()
    assert not torch.isfinite(run(model, 1)).all()


def test_a_norm_that_something_else_reads_is_computed(model):
    class NormOfStates(torch.nn.Module):
        """Added to the states too, as in blocks with norms behind their submodules."""

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
    engine = attached(model, [1, 0], count=0)
    run(model, 0)
    torch.testing.assert_close(run(model, 0), expected)  # of equal input, reuse is exact
    engine.detach()
    torch.testing.assert_close(run(model, 0), expected)


def test_a_norm_of_two_blocks_is_computed(model):
    norms = with_poisoned_norms(model)
    model.transformer_blocks[1].norm3 = model.transformer_blocks[0].norm3
    expected = run(model, 0)
    engine = attached(model, [1, 0], count=0)
    run(model, 0)
    norms[1].tokens = norms[5].tokens = 0
    torch.testing.assert_close(run(model, 0), expected)
    assert (norms[1].tokens, norms[5].tokens) == (2 * TOKENS, 0)
    engine.detach()
    assert torch.equal(run(model, 0), expected)


def test_a_new_shape_computes_in_full(model):
    engine = attached(model, [1, 0, 0])
    run(model, 0)
    states = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        output = model(states, timestep=torch.tensor([1]), class_labels=torch.tensor([1])).sample
    assert engine.records[1].computed == (True,)
    engine.detach()
    with torch.no_grad():
        plain = model(states, timestep=torch.tensor([1]), class_labels=torch.tensor([1])).sample
    assert torch.equal(output, plain)


def test_the_budget_lowers_the_order_then_everything_is_computed(model):
    engine = attached(model, [1, 1, 0], history=2)
    run(model, 0)
    one = engine.bytes_held
    engine.detach()
    engine = attached(model, [1, 1, 0], history=2, max_bytes=int(1.5 * one))
    for step in range(3):
        run(model, step)
    assert engine.peak_bytes <= 1.5 * one
    assert engine.records[2].partial == (True,)
    engine.detach()
    plain = [run(model, step) for step in range(3)]
    engine = attached(model, [1, 1, 0], history=2, max_bytes=one // 2)
    assert all(torch.equal(run(model, step), plain[step]) for step in range(3))
    assert engine.bytes_held == 0
    assert "raise cache_megabytes" in report_of(engine).notes[0]


@pytest.mark.parametrize("count", [0, 4])
def test_a_compiled_run_has_one_graph_a_kind_and_equals_eager(model, count):
    engine = attached(model, [1, 0, 0, 1, 0, 0], count=count, history=2)
    eager = [run(model, s) for s in range(6)]
    graphs = []

    def count_graphs(module, example_inputs):
        graphs.append(module)
        return module

    torch.compiler.reset()
    engine.binding.compile(fullgraph=True, backend=count_graphs)
    for _ in range(2):
        for s in range(6):
            torch.testing.assert_close(run(model, s), eager[s])
    assert 2 <= len(graphs) <= 3
    assert engine.latest.submodules[1].depth == 2


def test_a_plan_of_larger_inputs_asks_for_no_more_tokens_than_there_are(model):
    watched = Watched(model)
    watched.compute(seed=0, step=0)
    expected = watched.partially(seed=1, step=1, count=TOKENS)
    watched.compute(seed=0, step=2)
    assert torch.equal(watched.partially(seed=1, step=3, count=100 * TOKENS), expected)
