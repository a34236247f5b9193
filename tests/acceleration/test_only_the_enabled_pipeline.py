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
    same,
    stop_at,
)

import genaccel
from genaccel import SensitivityConfig

SODA = SensitivityConfig(speedup=2.0)


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
