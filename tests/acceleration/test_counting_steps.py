# SPDX-License-Identifier: Apache-2.0
"""Steps are counted whatever a pipeline tells its scheduler; where they can't be, that is said once."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline, WanVideoToVideoPipeline
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import (
    control_image,
    flux,
    flux_inputs,
    is_fast,
    problems,
    report,
    run_flux,
    run_wan,
    wan,
)

import genaccel
from genaccel import SensitivityConfig

SODA = SensitivityConfig(speedup=2.0)


def promises(caplog):
    return caplog.text.count("the next ones are faster")


@pytest.mark.parametrize("strength", [0.5, 0.8, 1.0])
def test_video_to_video_has_a_plan_after_its_first_run(strength, caplog):
    """Its pipeline never sets ``begin_index``."""
    pipe = wan(WanVideoToVideoPipeline)
    noise = np.random.default_rng(0)
    frames = [
        Image.fromarray(noise.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(5)
    ]
    given = {"video": frames, "strength": strength, "steps": 20}
    plain = run_wan(pipe, **given)
    handle = genaccel.enable(pipe, SODA)
    assert torch.equal(run_wan(pipe, **given), plain)
    image = run_wan(pipe, **given)
    assert promises(caplog) == 1
    found = report(handle)
    assert found.steps == found.num_steps == round(20 * strength)
    assert found.flop_ratio >= 1.9
    assert torch.equal(run_wan(pipe, **given), image)


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_image_to_image_counts_the_steps_it_has(strength, caplog):
    pipe = flux(FluxImg2ImgPipeline)
    given = {"image": control_image(), "strength": strength, "steps": 20}
    plain = run_flux(pipe, **given)
    handle = genaccel.enable(pipe, SODA)
    assert torch.equal(run_flux(pipe, **given), plain)
    run_flux(pipe, **given)
    assert promises(caplog) == 1
    found = report(handle)
    assert found.steps == found.num_steps == round(20 * strength)
    assert found.flop_ratio >= 1.9


class OwnLoop(FluxPipeline):
    """A user's loop around the transformer.

    Attributes:
        steps_itself: Whether it does without the scheduler's step.
        hides_the_time: Whether the transformer gets one time in all steps.
    """

    steps_itself = False
    hides_the_time = False

    def __call__(self, steps=10):
        self.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist())
        given = flux_inputs()
        with torch.no_grad():
            for i, timestep in enumerate(self.scheduler.timesteps):
                given["timestep"] = torch.full(
                    (1,), 0.5 if self.hides_the_time else timestep / 1000
                )
                noise = self.transformer(**given)[0]
                if self.steps_itself:
                    change = self.scheduler.sigmas[i + 1] - self.scheduler.sigmas[i]
                    given["hidden_states"] = given["hidden_states"] + change * noise
                else:
                    given["hidden_states"] = self.scheduler.step(
                        noise, timestep, given["hidden_states"], return_dict=False
                    )[0]
        return given["hidden_states"]


@pytest.mark.parametrize("steps_itself", [False, True])
def test_a_loop_of_ones_own_is_counted_by_the_scheduler_or_by_the_time(steps_itself, caplog):
    pipe = flux(OwnLoop)
    pipe.steps_itself = steps_itself
    plain = pipe()
    handle = genaccel.enable(pipe, SODA)
    assert torch.equal(pipe(), plain)
    image = pipe()
    assert promises(caplog) == 1
    assert report(handle).steps == 10
    assert is_fast(handle)
    assert torch.equal(pipe(), image)


def test_steps_that_can_not_be_counted_are_said_once_and_computed(caplog):
    pipe = flux(OwnLoop)
    pipe.steps_itself = pipe.hides_the_time = True
    plain = pipe()
    handle = genaccel.enable(pipe, SODA)
    for _ in range(3):
        assert torch.equal(pipe(), plain)
        assert any("can't be counted" in note for note in report(handle).notes)
    assert promises(caplog) == 0
    assert len(problems(caplog)) == 1
    assert "can't be counted" in problems(caplog)[0]


def test_a_loop_around_a_bare_model_is_counted_by_the_time():
    pipe = flux(OwnLoop)
    plain = pipe()
    handle = genaccel.enable(pipe.transformer, SODA, num_inference_steps=10)
    assert torch.equal(pipe(), plain)
    image = pipe()
    assert is_fast(handle, "model")
    assert torch.equal(pipe(), image)
    handle.disable()
    assert torch.equal(pipe(), plain)
