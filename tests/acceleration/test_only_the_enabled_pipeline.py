# SPDX-License-Identifier: Apache-2.0
"""Only calls of the enabled pipeline are accelerated; all others are plain and leave no trace."""

import functools
import sys
import threading
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    FluxImg2ImgPipeline,
    FluxPipeline,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import (
    Stopped,
    flux,
    flux_inputs,
    interrupt_at,
    is_fast,
    quiet,
    report,
    run_flux,
    stop_at,
    traces,
)

import genaccel
from genaccel import SensitivityConfig
from genaccel.hooks.binding import AlreadyEnabledError

SODA = SensitivityConfig(speedup=2.0)


@pytest.fixture(params=["output", "segment"])
def config(request):
    """Two ways to forecast."""
    return SensitivityConfig(speedup=2.0, granularity=request.param)


@pytest.fixture
def pipe():
    return flux()


@pytest.fixture
def plain(pipe):
    """What the pipeline makes without acceleration."""
    return run_flux(pipe)


@pytest.fixture
def handle(pipe, plain, config):
    """The pipeline is enabled, and has measured a run."""
    made = genaccel.enable(pipe, config)
    run_flux(pipe)
    return made


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class TestDirectCalls:
    def test_they_are_plain_and_counted_in_the_report(self, pipe, handle):
        given = flux_inputs()
        with handle.paused():
            plain = pipe.transformer(**given)
        before = report(handle).plain_calls
        for _ in range(3):
            assert same(pipe.transformer(**given), plain)
        run_flux(pipe)
        for _ in range(3):
            assert same(pipe.transformer(**given), plain)
        found = report(handle)
        assert found.calls == found.num_steps == 10
        assert found.plain_calls == before + 6
        assert f"{before + 6} calls belonged to no run" in str(found)

    def test_between_the_steps_of_a_run(self, pipe, handle):
        given = flux_inputs()
        with handle.paused():
            plain = pipe.transformer(**given)
        replayed = run_flux(pipe)
        seen = []

        def call(pipe, index, timestep, values):
            seen.append(same(pipe.transformer(**given), plain))
            return values

        assert torch.equal(run_flux(pipe, callback_on_step_end=call), replayed)
        assert seen == [True] * 10
        assert report(handle).calls == 10

    def test_with_autograd_and_in_training(self, pipe, handle):
        transformer = pipe.transformer
        given = flux_inputs()

        def gradients():
            transformer.zero_grad()
            loss = transformer(**given)[0].square().mean()
            loss.backward()
            return [p.grad.clone() for p in transformer.parameters() if p.grad is not None]

        for train in (True, False):
            transformer.train(train)
            with handle.paused():
                plain = gradients()
            assert len(plain) > 50
            assert same(gradients(), plain)
            transformer.enable_gradient_checkpointing()
            assert same(gradients(), plain)
            transformer.disable_gradient_checkpointing()
        transformer.eval()
        transformer.zero_grad()

    def test_a_training_step_between_the_steps_of_a_run(self, pipe, handle):
        transformer, given = pipe.transformer, flux_inputs()
        replayed = run_flux(pipe)

        def train(pipe, index, timestep, values):
            if index % 3 == 0:
                transformer.train()
                with torch.enable_grad():
                    transformer(**given)[0].sum().backward()
                transformer.eval()
                transformer.zero_grad()
            return values

        assert torch.equal(run_flux(pipe, callback_on_step_end=train), replayed)

    @pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
    def test_under_autocast(self, pipe, handle):
        given = flux_inputs()
        with torch.autocast("cpu", torch.bfloat16):
            with handle.paused():
                plain = pipe.transformer(**given)
            assert same(pipe.transformer(**given), plain)

    def test_a_loop_of_ones_own_is_plain(self, pipe, handle):
        def loop():
            scheduler = pipe.scheduler
            scheduler.set_timesteps(sigmas=torch.linspace(1, 0.1, 6).tolist())
            given = flux_inputs()
            with torch.no_grad():
                for timestep in scheduler.timesteps:
                    given["timestep"] = timestep[None] / 1000
                    noise = pipe.transformer(**given)[0]
                    given["hidden_states"] = scheduler.step(
                        noise, timestep, given["hidden_states"], return_dict=False
                    )[0]
            return given["hidden_states"]

        with handle.paused():
            plain = loop()
        for _ in range(3):
            assert torch.equal(loop(), plain)


class TestOtherPipelines:
    @pytest.fixture(params=["from_pipe", "built of the same weights", "img2img", "auto"])
    def other(self, request, pipe):
        """Runs another pipeline on the same weights."""
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        of_image = {"image": image, "strength": 0.6}
        kind, arguments = {
            "from_pipe": (lambda: FluxPipeline.from_pipe(pipe), {}),
            "built of the same weights": (lambda: flux(transformer=pipe.transformer), {}),
            "img2img": (lambda: FluxImg2ImgPipeline.from_pipe(pipe), of_image),
            "auto": (lambda: AutoPipelineForImage2Image.from_pipe(pipe), of_image),
        }[request.param]

        def make():
            made = quiet(kind())
            assert made.transformer is pipe.transformer
            return functools.partial(run_flux, made, seed=3, prompt=77, **arguments)

        return make

    def test_made_before_or_after_enable_it_is_plain(self, pipe, other, config):
        before = other()
        plain = before()
        genaccel.enable(pipe, config)
        run_flux(pipe)
        replayed = run_flux(pipe)
        after = other()
        for run in (before, after):
            assert torch.equal(run(), plain)
        assert torch.equal(run_flux(pipe), replayed)
        for run in (after, before):
            assert torch.equal(run(), plain)

    @pytest.mark.parametrize("at", [0, 1, 3, 4, 8])
    @pytest.mark.parametrize("how", ["an exception", "_interrupt"])
    def test_after_an_interruption_it_is_plain(self, pipe, handle, at, how):
        other = quiet(FluxPipeline.from_pipe(pipe))
        with handle.paused():
            plain = run_flux(other, seed=3, prompt=77)
        replayed = run_flux(pipe)
        if how == "an exception":
            with pytest.raises(Stopped):
                run_flux(pipe, callback_on_step_end=stop_at(at))
        else:
            run_flux(pipe, callback_on_step_end=interrupt_at(at))
        assert torch.equal(run_flux(other, seed=3, prompt=77), plain)
        assert handle.attachments["transformer"].bytes_held == 0
        assert torch.equal(run_flux(pipe), replayed)

    def test_with_a_scheduler_that_both_share(self, pipe, handle):
        other = flux(transformer=pipe.transformer, scheduler=pipe.scheduler)
        with handle.paused():
            plain = run_flux(other, seed=3)
        replayed = run_flux(pipe)
        for _ in range(2):
            assert torch.equal(run_flux(other, seed=3), plain)
            assert torch.equal(run_flux(pipe), replayed)

    def test_a_bare_model_and_a_pipeline_may_both_be_enabled(self, pipe, plain, config):
        handle = genaccel.enable(pipe.transformer, config, num_inference_steps=10)
        of_pipe = genaccel.enable(pipe, config)
        run_flux(pipe)
        replayed = run_flux(pipe)
        assert is_fast(of_pipe)
        of_pipe.disable()
        # From here on the calls are those of the bare model, of any pipeline.
        other = flux(transformer=pipe.transformer)
        assert torch.isfinite(run_flux(other)).all()
        assert torch.isfinite(run_flux(other)).all()
        assert report(handle, "model").calls == 10
        handle.disable()
        assert torch.equal(run_flux(pipe), plain)
        assert not torch.equal(replayed, plain)


class TestThreads:
    def test_another_pipeline_in_another_thread_while_a_run_is_at_its_steps(self, pipe, handle):
        other = flux(transformer=pipe.transformer)
        with handle.paused():
            plain = run_flux(other, seed=3, prompt=77)
        replayed = run_flux(pipe)
        got = []

        def work():
            got.append(run_flux(other, seed=3, prompt=77))

        def start(pipe, index, timestep, values):
            if index in (0, 2, 5):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
            return values

        assert torch.equal(run_flux(pipe, callback_on_step_end=start), replayed)
        assert len(got) == 3
        assert all(torch.equal(image, plain) for image in got)

    def test_both_at_once(self, pipe, handle):
        other = flux(transformer=pipe.transformer)
        with handle.paused():
            plain = run_flux(other, seed=3, prompt=77)
        replayed = run_flux(pipe)
        images = {"fast": [], "plain": []}

        def work(name, runs, **arguments):
            for _ in range(4):
                images[name].append(run_flux(runs, **arguments))

        threads = [
            threading.Thread(target=work, args=("fast", pipe)),
            threading.Thread(target=work, args=("plain", other), kwargs={"seed": 3, "prompt": 77}),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [torch.equal(image, replayed) for image in images["fast"]] == [True] * 4
        assert [torch.equal(image, plain) for image in images["plain"]] == [True] * 4


class CallsBack:
    """Runs something at the end of each step, in all the ways in which that can be said."""

    def __init__(self, work):
        self.work = work

    def method(self, pipe, index, timestep, values):
        self.work(pipe, index)
        return values


class OwnCallback(PipelineCallback):
    """A callback object of diffusers."""

    tensor_inputs = ["latents"]  # noqa: RUF012 - as diffusers' own have it

    def __init__(self, work):
        super().__init__()
        self.work = work

    def callback_fn(self, pipe, index, timestep, values):
        self.work(pipe, index)
        return values


def as_function(work):
    def callback(pipe, index, timestep, values):
        work(pipe, index)
        return values

    return callback


def as_partial(work):
    def callback(extra, pipe, index, timestep, values):
        work(pipe, index)
        return values

    return functools.partial(callback, "extra")


def as_callable_object(work):
    class Callback:
        def __call__(self, pipe, index, timestep, values):
            work(pipe, index)
            return values

    return Callback()


@pytest.mark.parametrize(
    "wrap",
    [
        as_function,
        as_partial,
        lambda work: CallsBack(work).method,
        as_callable_object,
        OwnCallback,
        lambda work: MultiPipelineCallbacks([OwnCallback(work), OwnCallback(lambda *_: None)]),
    ],
    ids=["function", "partial", "method", "object", "callback", "callbacks"],
)
class TestCallbacks:
    """A callback belongs to whoever wrote it."""

    def test_another_pipeline_is_plain_in_it(self, pipe, handle, wrap):
        other = flux(transformer=pipe.transformer)
        with handle.paused():
            plain = run_flux(other, seed=3, prompt=77, steps=4)
        replayed = run_flux(pipe)
        seen = []

        def work(pipe, index):
            if index in (1, 4):
                seen.append(torch.equal(run_flux(other, seed=3, prompt=77, steps=4), plain))

        assert torch.equal(run_flux(pipe, callback_on_step_end=wrap(work)), replayed)
        assert seen == [True, True]

    def test_a_direct_call_is_plain_in_it(self, pipe, handle, wrap):
        given = flux_inputs()
        with handle.paused():
            plain = pipe.transformer(**given)
        replayed = run_flux(pipe)
        seen = []

        def work(pipe, index):
            seen.append(same(pipe.transformer(**given), plain))

        assert torch.equal(run_flux(pipe, callback_on_step_end=wrap(work)), replayed)
        assert seen == [True] * 10

    def test_it_may_end_the_run(self, pipe, handle, wrap):
        def work(pipe, index):
            if index == 4:
                raise Stopped

        replayed = run_flux(pipe)
        with pytest.raises(Stopped):
            run_flux(pipe, callback_on_step_end=wrap(work))
        assert torch.equal(run_flux(pipe), replayed)


class TestStateOfCallbacks:
    def test_an_object_keeps_what_it_notes(self, pipe, handle):
        class Counts(PipelineCallback):
            tensor_inputs = ["latents"]  # noqa: RUF012

            def __init__(self):
                super().__init__()
                self.count = 0
                self.seen = []

            def callback_fn(self, pipe, index, timestep, values):
                self.count += 1
                self.seen.append(index)
                return values

        counts = Counts()
        run_flux(pipe, callback_on_step_end=counts)
        run_flux(pipe, callback_on_step_end=counts)
        assert counts.count == 20
        assert counts.seen == [*range(10)] * 2
        assert type(counts) is Counts

    def test_what_is_callable_but_no_callback_is_passed_on_as_it_is(self, pipe, handle):
        class Image(torch.Tensor):
            pass

        seen = {}

        class Keeps(FluxPipeline):
            def __call__(self, *args, extra=None, **kwargs):
                seen["extra"] = extra
                return super().__call__(*args, **kwargs)

        keeps = flux(Keeps, transformer=pipe.transformer)
        with genaccel.enable(keeps, SODA):
            for extra in (torch.zeros(2), torch.nn.Linear(1, 1), FluxPipeline, "text", 3):
                run_flux(keeps, extra=extra)
                assert seen["extra"] is extra


class TestLostHandles:
    def test_a_pipeline_can_be_asked_and_disabled(self, pipe, plain, config):
        assert not genaccel.is_enabled(pipe)
        genaccel.disable(pipe)  # nothing to do
        genaccel.enable(pipe, config)
        run_flux(pipe)
        assert genaccel.is_enabled(pipe)
        assert not torch.equal(run_flux(pipe), plain)
        genaccel.disable(pipe)
        assert not genaccel.is_enabled(pipe)
        assert torch.equal(run_flux(pipe), plain)
        genaccel.enable(pipe, config)
        assert not torch.equal(run_flux(pipe), plain)  # the plan was kept

    def test_a_bare_model_too(self, pipe, plain, config):
        genaccel.enable(pipe.transformer, config, num_inference_steps=10)
        assert genaccel.is_enabled(pipe.transformer)
        assert not genaccel.is_enabled(pipe)
        run_flux(pipe)
        assert not torch.equal(run_flux(pipe), plain)
        genaccel.disable(pipe.transformer)
        assert torch.equal(run_flux(pipe), plain)

    def test_a_handle_that_was_disabled_disables_nothing_of_the_next_one(self, pipe, plain, config):
        first = genaccel.enable(pipe, config)
        run_flux(pipe)
        genaccel.disable(pipe)
        assert not first.is_enabled
        second = genaccel.enable(pipe, config)
        first.disable()
        assert second.is_enabled
        assert genaccel.is_enabled(pipe)
        assert not torch.equal(run_flux(pipe), plain)

    def test_a_second_enable_is_refused_and_the_first_stays(self, pipe, plain, config):
        handle = genaccel.enable(pipe, config)
        run_flux(pipe)
        replayed = run_flux(pipe)
        for again in (config, SensitivityConfig(speedup=3.0)):
            with pytest.raises(AlreadyEnabledError, match=r"FluxPipeline is accelerated already"):
                genaccel.enable(pipe, again)
        with pytest.raises(ValueError, match=r"call disable\(\) on its handle first"):
            genaccel.enable(pipe, config)
        assert handle.is_enabled
        assert torch.equal(run_flux(pipe), replayed)
        assert report(handle).calls == 10
        handle.disable()
        assert type(pipe) is FluxPipeline
        assert torch.equal(run_flux(pipe), plain)
        assert traces(pipe.transformer) == []


class TestTwoEnabledPipelines:
    """On one transformer, each with its own plan."""

    @pytest.fixture
    def two(self, pipe):
        return pipe, flux(transformer=pipe.transformer)

    def alone(self, config):
        """What a pipeline makes that has the transformer for itself."""
        made = flux()
        with genaccel.enable(made, config):
            run_flux(made)
            return run_flux(made)

    def test_each_follows_its_own_plan(self, two, plain, config):
        faster = config.changed(speedup=3.0)
        expected = [self.alone(config), self.alone(faster)]
        handles = [genaccel.enable(p, c) for p, c in zip(two, (config, faster), strict=True)]
        for p in two:
            run_flux(p)
        for _ in range(2):
            for p, image in zip(two, expected, strict=True):
                assert torch.equal(run_flux(p), image)
        ratios = [report(handle).flop_ratio for handle in handles]
        assert ratios[0] < ratios[1]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_one_outlives_the_other(self, two, plain, config, order):
        handles = [genaccel.enable(p, config) for p in two]
        for p in two:
            run_flux(p)
        replayed = run_flux(two[0])
        first, second = order
        handles[first].disable()
        assert torch.equal(run_flux(two[first]), plain)
        assert torch.equal(run_flux(two[second]), replayed)
        handles[second].disable()
        for p in two:
            assert torch.equal(run_flux(p), plain)
        assert traces(two[0].transformer) == []

    def test_one_within_a_callback_of_the_other(self, two, config):
        first, second = two
        faster = config.changed(speedup=3.0)
        expected = [self.alone(config), self.alone(faster)]
        genaccel.enable(first, config)
        genaccel.enable(second, faster)
        run_flux(first)
        run_flux(second)
        seen = []

        def nested(pipe, index, timestep, values):
            if index in (0, 3, 6):
                seen.append(torch.equal(run_flux(second), expected[1]))
            return values

        assert torch.equal(run_flux(first, callback_on_step_end=nested), expected[0])
        assert seen == [True] * 3

    def test_one_of_another_class(self, two, plain, config):
        first, _ = two
        second = quiet(FluxImg2ImgPipeline.from_pipe(first))
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        given = {"image": image, "strength": 0.8}
        plain_of_image = run_flux(second, **given)
        genaccel.enable(first, config)
        of_second = genaccel.enable(second, config)
        assert torch.equal(run_flux(first), plain)
        assert torch.equal(run_flux(second, **given), plain_of_image)
        assert not torch.equal(run_flux(first), plain)
        assert not torch.equal(run_flux(second, **given), plain_of_image)
        assert report(of_second).num_steps == 8
        genaccel.disable(first)
        assert torch.equal(run_flux(first), plain)
        assert is_fast(of_second)
