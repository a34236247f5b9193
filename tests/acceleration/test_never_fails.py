# SPDX-License-Identifier: Apache-2.0
"""A generation never fails because of acceleration: the image comes, one warning says what happened, the report too."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import (
    flux,
    flux_transformer,
    interrupt_at,
    is_fast,
    problems,
    report,
    run_flux,
    run_wan,
    the_only,
    traces,
    wan,
    wan_transformer,
)

import genaccel
from genaccel import SensitivityConfig
from genaccel.hooks import segments
from genaccel.hooks.memory import Memory
from genaccel.sensitivity.plans.plan_source import PlanSource
from genaccel.sensitivity.run.director import SensitivityDirector, SensitivityRun

SODA = SensitivityConfig(speedup=2.0)

every_granularity = pytest.mark.parametrize("granularity", ["output", "segment", "module", "mixed"])


class TestTargetsOutOfReach:
    @pytest.mark.parametrize("granularity", ["output", "segment", "mixed"])
    @pytest.mark.parametrize("steps", [1, 2, 3, 4])
    def test_few_steps_get_the_image_and_an_honest_sentence(self, pipe, steps, granularity, caplog):
        plain = run_flux(pipe, steps=steps)
        config = SensitivityConfig(speedup=2.0, granularity=granularity)
        handle = genaccel.enable(pipe, config)
        assert torch.equal(run_flux(pipe, steps=steps), plain)
        second = run_flux(pipe, steps=steps)
        found = report(handle)
        assert torch.isfinite(second).all()
        assert found.flop_ratio >= 1.96 or found.notes
        if not is_fast(handle):
            assert torch.equal(second, plain)
        assert len(problems(caplog)) <= 1

    @pytest.mark.parametrize("steps", [1, 2, 3, 4, 8])
    @pytest.mark.parametrize("speedup", [2.0, 50.0])
    def test_by_rule_from_the_first_run(self, pipe, steps, speedup):
        plain = run_flux(pipe, steps=steps)
        config = SensitivityConfig(speedup=speedup, first_run="plan")
        handle = genaccel.enable(pipe, config)
        first = run_flux(pipe, steps=steps)
        assert torch.equal(run_flux(pipe, steps=steps), first)
        assert is_fast(handle) or (torch.equal(first, plain) and report(handle).notes)

    @every_granularity
    @pytest.mark.parametrize("speedup", [50.0, "max"])
    def test_more_than_there_is_gives_the_best_there_is(self, pipe, plain, granularity, speedup):
        config = SensitivityConfig(speedup=speedup, granularity=granularity)
        handle = genaccel.enable(pipe, config)
        assert torch.equal(run_flux(pipe), plain)
        run_flux(pipe)
        found = report(handle)
        assert found.flop_ratio > {"module": 1.3, "mixed": 2.2}.get(granularity, 2.5)
        if speedup == 50.0:
            assert any("50x is out of reach here" in note for note in found.notes)

    @pytest.mark.parametrize("granularity", ["output", "segment"])
    @pytest.mark.parametrize("steps", [4, 5, 6, 8])
    def test_two_transformers_that_share_few_steps(self, steps, granularity, caplog):
        pipe = wan(transformer_2=wan_transformer(2), boundary_ratio=0.875)
        plain = run_wan(pipe, steps=steps)
        config = SensitivityConfig(speedup=2.0, granularity=granularity)
        handle = genaccel.enable(pipe, config)
        assert torch.equal(run_wan(pipe, steps=steps), plain)
        second = run_wan(pipe, steps=steps)
        assert torch.isfinite(second).all()
        assert torch.equal(run_wan(pipe, steps=steps), second)
        calls = 0
        for name in ("transformer", "transformer_2"):
            found = report(handle, name)
            calls += found.calls
            assert found.flop_ratio >= 1.9 or found.notes, name
        assert calls == steps
        assert len(problems(caplog)) <= 2  # one for each transformer


class TestParts:
    """Runs, or parts of runs, that are shorter than planned."""

    @pytest.mark.parametrize("granularity", ["output", "segment"])
    def test_the_boundary_of_two_transformers_moves(self, granularity):
        pipe = wan(transformer_2=wan_transformer(2), boundary_ratio=0.875)
        config = SensitivityConfig(speedup=2.0, granularity=granularity)
        handle = genaccel.enable(pipe, config)
        run_wan(pipe, steps=12)
        run_wan(pipe, steps=12)
        for boundary in (0.6, 0.95, 1.0, 0.0):
            pipe.register_to_config(boundary_ratio=boundary)
            with handle.paused():
                plain = run_wan(pipe, steps=12)
            first = run_wan(pipe, steps=12)
            assert first.shape == plain.shape
            assert torch.isfinite(first).all()

    @pytest.mark.parametrize("granularity", ["output", "segment"])
    @pytest.mark.parametrize("step", [0, 1, 5])
    def test_a_run_that_is_interrupted_leaves_no_plan_and_a_sentence(
        self, pipe, plain, granularity, step, cache
    ):
        handle = genaccel.enable(pipe, SensitivityConfig(speedup=2.0, granularity=granularity))
        run_flux(pipe, callback_on_step_end=interrupt_at(step))
        assert handle.plans == {"transformer": None}
        assert not cache.exists() or not list(cache.iterdir())
        assert report(handle).notes
        assert torch.equal(run_flux(pipe), plain)
        run_flux(pipe)
        assert is_fast(handle)

    def test_a_pipeline_that_ends_early_without_a_word_is_not_measured_as_a_whole(
        self, plain, cache
    ):
        class EndsEarly(FluxPipeline):
            """Its callback may raise StopIteration to have the image as it is by then."""

            def __call__(self, *args, **kwargs):
                try:
                    return super().__call__(*args, **kwargs)
                except StopIteration:
                    return None

        def stop(pipe, index, timestep, values):
            if index == 4:
                raise StopIteration
            return values

        pipe = flux(EndsEarly)
        handle = genaccel.enable(pipe, SODA)
        with pytest.raises(AttributeError):
            run_flux(pipe, callback_on_step_end=stop)
        assert handle.plans == {"transformer": None}
        assert torch.equal(run_flux(pipe), plain)
        run_flux(pipe)
        assert is_fast(handle)

    def test_disabled_in_the_middle_of_a_measured_run(self, pipe, plain, cache):
        handle = genaccel.enable(pipe, SODA)

        def disable(pipe, index, timestep, values):
            if index == 4:
                genaccel.disable(pipe)
            return values

        assert torch.equal(run_flux(pipe, callback_on_step_end=disable), plain)
        assert not handle.is_enabled
        assert type(pipe) is FluxPipeline
        assert torch.equal(run_flux(pipe), plain)
        # Half a run is no measurement.
        handle = genaccel.enable(pipe, SODA)
        assert torch.equal(run_flux(pipe), plain)
        assert not is_fast(handle)

    def test_disabled_in_the_middle_of_a_fast_run(self, pipe, plain):
        genaccel.enable(pipe, SODA)
        run_flux(pipe)
        last = []

        def disable(pipe, index, timestep, values):
            if index == 4:
                genaccel.disable(pipe)
            last.append(values["latents"])
            return values

        assert torch.isfinite(run_flux(pipe, callback_on_step_end=disable)).all()
        assert len(last) == 10
        assert torch.equal(run_flux(pipe), plain)

    def test_enabled_in_the_middle_of_a_run(self, pipe, plain):
        def enable(pipe, index, timestep, values):
            if index == 4:
                genaccel.enable(pipe, SODA)
            return values

        assert torch.equal(run_flux(pipe, callback_on_step_end=enable), plain)
        assert torch.equal(run_flux(pipe), plain)  # measured
        assert not torch.equal(run_flux(pipe), plain)

    def test_paused_in_the_middle_of_a_measured_run(self, pipe, plain):
        handle = genaccel.enable(pipe, SODA)
        pauses = []

        def pause(pipe, index, timestep, values):
            if index == 3:
                pauses.append(handle.paused())
                pauses[0].__enter__()
            if index == 6:
                pauses[0].__exit__(None, None, None)
            return values

        assert torch.equal(run_flux(pipe, callback_on_step_end=pause), plain)
        # A run with a hole in it is no measurement.
        assert handle.plans == {"transformer": None}
        assert torch.equal(run_flux(pipe), plain)
        run_flux(pipe)
        assert is_fast(handle)


class TestBudget:
    @every_granularity
    def test_a_budget_that_is_too_small_computes_everything(self, pipe, plain, granularity, caplog):
        config = SensitivityConfig(speedup=2.0, granularity=granularity, cache_megabytes=1e-6)
        handle = genaccel.enable(pipe, config)
        for _ in range(3):
            assert torch.equal(run_flux(pipe), plain)
        said = the_only(problems(caplog))
        assert "raise cache_megabytes" in said
        assert any("raise cache_megabytes" in note for note in report(handle).notes)
        assert handle.attachments["transformer"].bytes_held == 0

    @pytest.mark.parametrize("granularity", ["output", "segment"])
    def test_a_budget_of_a_single_step_lowers_the_order(self, pipe, plain, granularity):
        config = SensitivityConfig(speedup=2.0, granularity=granularity)
        with genaccel.enable(pipe, config) as handle:
            run_flux(pipe)
            run_flux(pipe)
            most = report(handle).peak_bytes
        small = dataclasses.replace(config, cache_megabytes=0.6 * most / 1e6)
        with genaccel.enable(pipe, small) as handle:
            assert torch.isfinite(run_flux(pipe)).all()
            run_flux(pipe)
            assert report(handle).peak_bytes <= 0.6 * most


class Broken(Exception):
    """An error of our own code, of a class that nobody expects."""


def break_in(owner, name, error):
    def fail(*_, **__):
        raise error

    return owner, name, fail


INSIDE = {
    "begin": (SensitivityDirector, "begin"),
    "fingerprint": (SensitivityDirector, "fingerprint"),
    "learn": (SensitivityRun, "learn"),
    "decide": (SensitivityRun, "decide"),
    "choose": (SensitivityRun, "_choose"),
    "ended": (SensitivityRun, "ended"),
    "finish": (SensitivityRun, "finish"),
    "find": (PlanSource, "find"),
    "keep": (PlanSource, "keep"),
    "block_called": (segments.SegmentLearner, "block_called"),
    "segments": (segments.SegmentLearner, "segments"),
    "added": (segments.SegmentLearner, "added"),
    "memory": (Memory, "keep"),
}


@pytest.mark.parametrize("error", [ValueError, Broken])
@pytest.mark.parametrize("where", INSIDE)
class TestOurOwnErrors:
    """Whatever breaks inside the engine or a director, the image is the plain one."""

    def test_in_the_first_run(self, pipe, plain, where, error, caplog, monkeypatch):
        handle = genaccel.enable(pipe, SensitivityConfig(speedup=2.0, granularity="segment"))
        owner, name = INSIDE[where]
        with monkeypatch.context() as broken:
            broken.setattr(*break_in(owner, name, error("it broke")))
            assert torch.equal(run_flux(pipe), plain)
            notes = report(handle).notes
            assert torch.equal(run_flux(pipe), plain)
        said = problems(caplog)
        assert len(said) == 1
        assert "it broke" in said[0]
        if where != "begin":  # there is no run then
            assert any("it broke" in note for note in notes)
        # Mended, it works.
        run_flux(pipe)
        run_flux(pipe)
        assert is_fast(handle)

    def test_in_a_run_with_a_plan(self, pipe, plain, where, error, caplog, monkeypatch):
        genaccel.enable(pipe, SensitivityConfig(speedup=2.0, granularity="segment"))
        run_flux(pipe)
        replayed = run_flux(pipe)
        owner, name = INSIDE[where]
        with monkeypatch.context() as broken:
            broken.setattr(*break_in(owner, name, error("it broke")))
            for _ in range(2):
                assert torch.isfinite(run_flux(pipe)).all()
                if where in ("begin", "fingerprint", "decide", "choose", "find", "memory"):
                    assert torch.equal(run_flux(pipe), plain)
        assert len(problems(caplog)) <= 1
        assert torch.equal(run_flux(pipe), replayed)


class TestErrorsWhileForecasting:
    @pytest.fixture(params=["segment", "module", "mixed", "output"])
    def handle(self, request, pipe, plain):
        config = SensitivityConfig(speedup=2.0, granularity=request.param)
        handle = genaccel.enable(pipe, config)
        run_flux(pipe)
        return handle

    def test_forecasts_of_a_wrong_shape_are_computed_instead(
        self, pipe, plain, handle, caplog, monkeypatch
    ):
        from genaccel.hooks import directing, memory, submodule_memory

        made = directing.make_forecasts

        def of_wrong_shape(requests):
            return [t[:, :-1] if t.ndim > 2 else t for t in made(requests)]

        replayed = run_flux(pipe)
        with monkeypatch.context() as broken:
            for module in (directing, memory, submodule_memory):
                broken.setattr(module, "make_forecasts", of_wrong_shape)
            got = run_flux(pipe)
        assert torch.equal(got, plain) or report(handle).model == "FluxTransformer2DModel"
        assert torch.isfinite(got).all()
        assert len(problems(caplog)) == 1
        assert "computed in full" in problems(caplog)[0]
        assert any("computed in full from some step on" in n for n in report(handle).notes)
        assert torch.equal(run_flux(pipe), replayed)

    def test_memory_that_runs_out_in_a_forecast_call(
        self, pipe, plain, handle, caplog, monkeypatch
    ):
        from genaccel.hooks import directing, memory, submodule_memory

        def out_of_memory(requests):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        replayed = run_flux(pipe)
        with monkeypatch.context() as broken:
            for module in (directing, memory, submodule_memory):
                broken.setattr(module, "make_forecasts", out_of_memory)
            assert torch.isfinite(run_flux(pipe)).all()
        assert "OutOfMemoryError" in the_only(problems(caplog))
        assert handle.attachments["transformer"].bytes_held == 0
        assert torch.equal(run_flux(pipe), replayed)


class Cancelled(Exception):
    """Raised from within the model, by whoever wants it to stop."""


class TestErrorsOfOthers:
    """What the model itself raises is its user's, as ever."""

    @pytest.mark.parametrize("granularity", ["output", "module"])
    @pytest.mark.parametrize(
        ("error", "at"),
        [
            (Cancelled, 1),
            (Cancelled, 3),
            (KeyboardInterrupt, 3),
            (RuntimeError, 3),
            (ValueError, 2),
            (torch.OutOfMemoryError, 3),
        ],
    )
    def test_it_comes_through(self, pipe, plain, granularity, error, at):
        handle = genaccel.enable(pipe, SensitivityConfig(speedup=2.0, granularity=granularity))
        run_flux(pipe)
        replayed = run_flux(pipe)
        calls = []

        def fail(module, args):
            calls.append(None)
            if len(calls) >= at:
                raise error("of the model")

        # Called in every step that is computed.
        hook = pipe.transformer.x_embedder.register_forward_pre_hook(fail)
        with pytest.raises(error, match="of the model"):
            run_flux(pipe)
        hook.remove()
        assert handle.attachments["transformer"].bytes_held == 0
        assert torch.equal(run_flux(pipe), replayed)
        handle.disable()
        assert torch.equal(run_flux(pipe), plain)

    def test_an_error_in_the_first_call_comes_through(self, pipe, plain):
        handle = genaccel.enable(pipe, SODA)

        def fail(module, args):
            raise Cancelled

        hook = pipe.transformer.single_transformer_blocks[1].register_forward_pre_hook(fail)
        with pytest.raises(Cancelled):
            run_flux(pipe)
        hook.remove()
        assert torch.equal(run_flux(pipe), plain)
        run_flux(pipe)
        assert is_fast(handle)


class TestWrongArguments:
    """These alone raise, before any work, and leave nothing behind."""

    @pytest.mark.parametrize(
        ("config", "error", "message"),
        [
            (
                {"speedup": 2.0},
                TypeError,
                "must be a SensitivityConfig or SkipDecodingConfig, got dict",
            ),
            (None, TypeError, "must be a SensitivityConfig or SkipDecodingConfig, got NoneType"),
            (SensitivityConfig(min_psnr=30.0), ValueError, "genaccel tune"),
            (SensitivityConfig(plan="nowhere"), ValueError, "has no plan that meets the target"),
        ],
    )
    def test_of_enable(self, pipe, plain, config, error, message):
        before = set(vars(pipe)), set(vars(pipe.transformer)), set(vars(pipe.scheduler))
        with pytest.raises(error, match=message):
            genaccel.enable(pipe, config)
        assert (set(vars(pipe)), set(vars(pipe.transformer)), set(vars(pipe.scheduler))) == before
        assert type(pipe) is FluxPipeline
        assert torch.equal(run_flux(pipe), plain)

    def test_a_second_model_that_can_not_be_accelerated_leaves_the_first_alone(self):
        pipe = wan(transformer_2=wan_transformer(2), boundary_ratio=0.875)
        bare = torch.nn.Linear(2, 2)
        pipe.transformer_2 = bare
        with pytest.raises(ValueError, match="Linear has no list of transformer blocks"):
            genaccel.enable(pipe, SODA)
        assert traces(pipe.transformer) == []
        assert not genaccel.is_enabled(pipe)

    def test_a_transformer_that_is_exchanged_is_followed(self, pipe, caplog):
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        before = pipe.transformer
        pipe.transformer = flux_transformer(seed=4, num_layers=2)
        plain_of_other = run_flux(flux(transformer=flux_transformer(seed=4, num_layers=2)))
        assert torch.equal(run_flux(pipe), plain_of_other)  # measured anew
        assert traces(before) == []
        pipe.transformer = before
        assert torch.isfinite(run_flux(pipe)).all()
        assert is_fast(handle)
        assert isinstance(pipe, DiffusionPipeline)
        assert problems(caplog) == []
