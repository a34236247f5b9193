# SPDX-License-Identifier: Apache-2.0
"""Hooks compute, keep, forecast and forget what they are told to, each model for itself."""

import gc
import sys
import weakref
from pathlib import Path

import pytest
import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import handmade_models as handmade
from handmade_models import build, inputs, run, same
from scripted import ScriptedClock, ScriptedDirector, attach
from tiny_pipeline import STEPS, build_pipeline, sample
from tiny_transformers import TINY_TRANSFORMERS, call

from genaccel.hooks.binding import AlreadyEnabledError
from genaccel.hooks.clock import PipelineClock, TimestepClock
from genaccel.hooks.engine import Engine
from genaccel.hooks.pipeline_runs import PipelineRuns
from genaccel.hooks.report import report_of

MASK = [1, 1, 0, 1, 0, 0]
STATES = 4 * 4 * handmade.WIDTH  # bytes of the states of a run


def attach_to_pipeline(pipeline, mask=MASK, **options):
    return Engine(
        pipeline.transformer,
        PipelineClock(PipelineRuns.of(pipeline)),
        ScriptedDirector(mask),
        **options,
    )


class TestSchedule:
    def test_the_steps_of_the_mask_are_computed_and_no_others(self):
        model = build()
        plain = run(model, 6)
        engine = attach(model, MASK)
        outputs = run(model, 6)
        assert [record.computed for record in engine.records] == [(bool(m),) for m in MASK]
        assert same(outputs[:2], plain[:2])
        for step in (2, 4, 5):
            error = (outputs[step] - plain[step]).norm()
            assert 0 < error < (plain[step] - plain[step - 1]).norm()
        assert torch.equal(outputs[3], plain[3])

    def test_forecasts_are_the_weighted_sums_of_what_was_added(self):
        class Bare(handmade.Model):
            def forward(self, hidden_states, timestep):
                return self.blocks[0](hidden_states, self.embed(timestep))

        model = build(Bare, count=1)
        plain = run(model, 3)
        attach(model, [1, 1, 0])
        x = [inputs(step)[0] for step in range(3)]
        expected = x[2] + 2 * (plain[1] - x[1]) - (plain[0] - x[0])
        torch.testing.assert_close(run(model, 3)[2], expected)

    def test_segments_are_directed_one_by_one(self):
        model = build()
        engine = attach(model, [[1, 1, 1], [1, 0, 1], [0, 1, 0]], max_blocks=1)
        run(model, 3)
        assert [record.computed for record in engine.records] == [
            (True, True, True),
            (True, False, True),
            (False, True, False),
        ]
        assert engine.director.kept[2] == [(1, 0), (0,), (1, 0)]

    def test_runs_repeat_each_other_bit_for_bit(self):
        model = build()
        attach(model, MASK)
        first = run(model, 6)
        assert same(first, run(model, 6))
        assert not same(first, run(model, 6, seed=1))
        assert same(first, run(model, 6))

    def test_the_director_is_told_what_was_computed(self):
        model = build()
        engine = attach(model, [1, 0])
        run(model, 2)
        (first, added), (second, nothing) = engine.director.seen
        assert (first.step, second.step) == (0, 1)
        assert [tuple(t.shape) for t in added[0]] == [(1, 4, handmade.WIDTH)]
        assert nothing == [None]

    def test_nothing_is_kept_of_nothing_asked_for(self):
        model = build()
        engine = attach(model, [1, 1], history=0)
        run(model, 2)
        assert engine.bytes_held == engine.peak_bytes == 0

    def test_half_precision_states_are_forecast_in_their_own_type(self):
        model = build().bfloat16()
        attach(model, [1, 1, 0])
        assert [t.dtype for t in run(model, 3, dtype=torch.bfloat16)] == [torch.bfloat16] * 3

    @pytest.mark.parametrize("step", [0, 2])
    def test_nan_spoils_the_output_and_nothing_else(self, step):
        model = build()
        attach(model, [1, 1, 0])
        plain = run(model, 3)
        with torch.no_grad():
            for s in range(3):
                x, t = inputs(s)
                output = model(x * float("nan") if s == step else x, t)
                assert output.isnan().any() == (s == step or (step == 0 and s == 2))
        assert same(run(model, 3), plain)

    def test_gradients_flow_through_computed_steps(self):
        model = build()
        reference = model(*inputs(0)).sum()
        (expected,) = torch.autograd.grad(reference, model.proj_in.weight)
        engine = attach(model, [1, 1])
        output = model(*inputs(0)).sum()
        (got,) = torch.autograd.grad(output, model.proj_in.weight)
        assert torch.equal(got, expected)
        assert not engine.latest.streams[0].memories[0].added[0][0].requires_grad


class TestGuidance:
    """Classifier-free guidance: two halves in one call, in two calls, or none at all."""

    def test_streams_of_alternating_calls_do_not_mix(self):
        model = build()
        alone = []
        for seed in (0, 1):
            engine = attach(model, MASK)
            alone.append(run(model, 6, seed=seed))
            engine.detach()
        attach(model, MASK, calls=2)
        with torch.no_grad():
            together = [model(*inputs(step, seed=seed)) for step in range(6) for seed in (0, 1)]
        assert same(together[0::2], alone[0])
        assert same(together[1::2], alone[1])

    @pytest.mark.parametrize("with_context", [True, False])
    def test_a_model_with_cache_context_needs_none(self, with_context):
        tiny = TINY_TRANSFORMERS["WanTransformer3DModel"]
        model = tiny.build()
        steps = [0.3, 0.4, 0.5]
        alone = []
        for seed in (0, 1):
            engine = attach(model, [1, 1, 0])
            alone.append([call(model, tiny.inputs(step, seed=seed))[0] for step in steps])
            engine.detach()
        engine = attach(model, [1, 1, 0], calls=2)
        together = []
        for step in steps:
            for seed, name in enumerate(("cond", "uncond")):
                given = tiny.inputs(step, seed=seed)
                if with_context:
                    with model.cache_context(name):
                        together += call(model, given)
                else:
                    together += call(model, given)
        assert same(together[0::2], alone[0])
        assert same(together[1::2], alone[1])
        engine.detach()
        assert "forward" not in vars(model)

    @pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
    def test_a_pipeline_guides_in_one_batch_or_not_at_all(self, guidance_scale):
        pipeline = build_pipeline()
        plain = sample(pipeline, guidance_scale=guidance_scale)
        engine = attach_to_pipeline(pipeline, [1] * STEPS)
        assert torch.equal(sample(pipeline, guidance_scale=guidance_scale), plain)
        engine.director.mask = MASK
        forecast = sample(pipeline, guidance_scale=guidance_scale)
        assert 0 < (forecast - plain).abs().max() < 0.1
        assert [all(record.computed) for record in engine.records] == list(map(bool, MASK))
        engine.detach()
        assert torch.equal(sample(pipeline, guidance_scale=guidance_scale), plain)


class TestForgetting:
    @pytest.mark.parametrize(
        "change", [{"batch": 2}, {"tokens": 6}, {"dtype": torch.float64}], ids=str
    )
    def test_a_change_of_the_inputs_in_a_run_computes_anew(self, change):
        model = build()
        engine = attach(model, [1, 1, 0, 0])
        run(model, 3)
        if "dtype" in change:
            model.double()
        with torch.no_grad():
            output = model(*inputs(3, **change))
        assert engine.records[-1].computed == (True,)
        engine.detach()
        with torch.no_grad():
            assert torch.equal(output, model(*inputs(3, **change)))

    def test_a_change_within_a_list_of_inputs_computes_anew(self):
        class ListModel(handmade.Model):
            def forward(self, hidden_states, timestep):
                return super().forward(torch.stack(hidden_states), timestep)

        model = build(ListModel)
        engine = attach(model, [1, 0, 0])
        with torch.no_grad():
            for step, tokens in enumerate((4, 4, 6)):
                x, t = inputs(step, tokens=tokens)
                assert model(list(x), t).shape == x.shape
        assert [record.computed for record in engine.records] == [(True,), (False,), (True,)]

    def test_a_new_run_forecasts_from_itself(self):
        model = build()
        engine = attach(model, [1, 0, 0])
        run(model, 3)
        run(model, 3, seed=1)
        assert engine.director.kept[3] == [()]
        assert len(engine.records) == 3

    def test_the_first_step_is_computed_even_where_the_mask_says_no(self):
        model = build()
        plain = run(model, 1)
        attach(model, [0, 0])
        assert same(run(model, 1), plain)

    def test_another_number_of_steps_is_another_run(self):
        pipeline = build_pipeline()
        engine = attach_to_pipeline(pipeline)
        plain = {}
        for steps in (6, 4, 6):
            images = sample(pipeline, steps=steps)
            assert engine.records[0].tick.num_steps == len(engine.records) == steps
            assert torch.equal(plain.setdefault(steps, images), images)

    def test_a_bare_model_counts_by_its_timestep(self):
        model = build()
        engine = Engine(model, TimestepClock(model, 6), ScriptedDirector(MASK))
        first = run(model, 6)
        assert same(run(model, 6), first)
        assert [bool(all(record.computed)) for record in engine.records] == list(map(bool, MASK))

    def test_reset_forgets(self):
        model = build()
        engine = attach(model, [1, 1, 0])
        run(model, 2)
        assert engine.bytes_held == 2 * STATES
        engine.reset()
        assert engine.bytes_held == 0

    @pytest.mark.parametrize("broken_step", [0, 1, 2])
    def test_a_call_that_failed_leaves_nothing_behind(self, broken_step):
        model = build(handmade.BreakableModel)
        plain = run(model, 3)
        # Block by block, so that the failure is between two segments.
        engine = attach(model, [1, 1, [0, 1, 1]], max_blocks=1)
        for step in range(broken_step):
            with torch.no_grad():
                model(*inputs(step))
        model.is_broken = True
        with pytest.raises(RuntimeError, match="the device is gone"):
            model(*inputs(broken_step))
        model.is_broken = False
        assert engine.bytes_held == 0
        assert engine.binding.current.frame is None
        engine.clock.count = 3
        clean = run(model, 3)
        assert same(clean[:2], plain[:2])
        engine.clock.count = 6
        assert same(run(model, 3), clean)

    def test_outputs_are_not_held_beyond_their_run(self):
        model = build()
        engine = attach(model, [1, 1, 0])
        run(model, 3)
        kept = weakref.ref(engine.latest.streams[0].memories[0].added[0][0])
        engine.director.seen.clear()
        engine.detach()
        gc.collect()
        assert kept() is None

    def test_paused_is_unaccelerated_and_forgets(self):
        model = build()
        plain = run(model, 6)
        engine = attach(model, MASK)
        first = run(model, 6)
        with engine.paused():
            assert same(run(model, 6), plain)
            with engine.paused():
                assert same(run(model, 6), plain)
            assert same(run(model, 6), plain)
        assert engine.bytes_held == 0
        assert same(run(model, 6), first)


class TestBudget:
    def test_bytes_are_those_of_what_is_kept(self):
        model = build()
        engine = attach(model, MASK)
        run(model, 1)
        assert engine.bytes_held == STATES
        run(model, 5)
        assert engine.bytes_held == engine.peak_bytes == 2 * STATES

    def test_streams_are_counted_together(self):
        model = build()
        engine = attach(model, [1, 1], calls=2, max_blocks=1)
        run(model, 4)
        assert engine.bytes_held == 2 * 2 * 3 * STATES

    def test_a_budget_drops_the_oldest(self):
        model = build()
        engine = attach(model, [1, 1, 0], max_bytes=STATES + 1)
        outputs = run(model, 3)
        assert engine.director.kept[2] == [(1,)]
        assert engine.peak_bytes == STATES
        engine.detach()
        engine = attach(model, [1, 1, 0], history=1)
        assert same(run(model, 3), outputs)

    def test_a_budget_that_is_too_small_computes_everything_and_says_so_once(self, caplog):
        model = build()
        plain = run(model, 3)
        engine = attach(model, [1, 1, 0], max_bytes=STATES - 1)
        for _ in range(2):
            assert same(run(model, 3), plain)
        assert engine.bytes_held == 0
        said = "which is over the budget of 0.000127 MB: raise cache_megabytes"
        assert "forecasts of Model hold 0.0 MB at least, " + said in caplog.text
        assert caplog.text.count(said) == 1
        assert said in report_of(engine).notes[0]


class TestInstances:
    def test_a_model_is_attached_once(self):
        model = build()
        engine = attach(model, [1])
        with pytest.raises(AlreadyEnabledError, match=r"Model is accelerated already; .*disable"):
            attach(model, [1])
        engine.detach()
        attach(model, [1]).detach()

    def test_a_model_without_blocks_is_refused_and_left_alone(self):
        model = nn.Linear(1, 1)
        with pytest.raises(ValueError, match="Linear has no list of transformer blocks"):
            attach(model, [1])
        assert "_diffusers_hook" not in vars(model)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_two_models_of_a_class_know_nothing_of_each_other(self, order):
        models = [build(), build()]
        plain = run(models[0], 6)
        engines = [attach(models[0], MASK), attach(models[1], [1, 0, 0, 1, 0, 0])]
        apart = [run(model, 6) for model in models]
        assert not same(*apart)
        together = [[], []]
        for step in range(6):
            for model, outputs in zip(models, together, strict=True):
                with torch.no_grad():
                    outputs.append(model(*inputs(step)))
        assert same(together[0], apart[0])
        assert same(together[1], apart[1])
        first, second = order
        engines[first].detach()
        assert same(run(models[first], 6), plain)
        assert same(run(models[second], 6), apart[second])
        engines[second].detach()
        assert same(run(models[second], 6), plain)

    def test_detaching_leaves_the_model_as_it_was(self):
        model = build()
        before = [dict(vars(module)) for module in model.modules()]
        engine = attach(model, [1, 1, 0])
        run(model, 3)
        engine.detach()
        assert [dict(vars(module)) for module in model.modules()] == before
        assert engine.clock.is_closed

    @pytest.mark.parametrize("ours_is_below", [True, False])
    def test_the_hooks_of_others_outlive_ours(self, ours_is_below):
        class Doubled(ModelHook):
            def new_forward(self, module, *args, **kwargs):
                return 2 * self.fn_ref.original_forward(*args, **kwargs)

        model = build()
        plain = run(model, 3)

        def hook_others():
            for module in (model, model.blocks[1]):
                registry = HookRegistry.check_if_exists_or_initialize(module)
                registry.register_hook(Doubled(), "doubled")

        hook_others()
        doubled = run(model, 3)
        assert not same(doubled, plain)
        if ours_is_below:
            for module in (model, model.blocks[1]):
                module._diffusers_hook.remove_hook("doubled", recurse=False)
        engine = attach(model, [1, 1, 1])
        if ours_is_below:
            hook_others()
        assert same(run(model, 3), doubled)
        engine.detach()
        assert same(run(model, 3), doubled)
        for module in (model, model.blocks[1]):
            module._diffusers_hook.remove_hook("doubled", recurse=False)
        assert same(run(model, 3), plain)

    def test_a_wrapped_model_is_unwrapped(self):
        model = build()
        wrapped = torch.compile(model, backend="eager")
        engine = attach(wrapped, [1, 1, 0])
        assert engine.model is model
        assert engine.binding.is_compiled_outside
        engine.detach()
        assert not attach(model, [1]).binding.is_compiled_outside

    def test_the_clock_is_closed_with_the_engine(self):
        clock = ScriptedClock(1)
        Engine(build(), clock, ScriptedDirector([1])).detach()
        assert clock.is_closed
