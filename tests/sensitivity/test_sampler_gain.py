# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from genaccel.sensitivity.sampler_gain import sampler_gains

STEPS = 10


def test_ddim_has_the_analytic_gains():
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(STEPS)
    ahead = 1000 // STEPS
    alphas = np.array([float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps])
    after = np.array(
        [float(scheduler.alphas_cumprod[max(0, int(t) - ahead)]) for t in scheduler.timesteps]
    )
    after[-1] = float(scheduler.final_alpha_cumprod)
    # x' = sqrt(a' / a) x + (sqrt(1 - a') - sqrt(a' (1 - a) / a)) e, and the later steps only scale.
    own = np.sqrt(1 - after) - np.sqrt(after * (1 - alphas) / alphas)
    later = np.sqrt(after[-1] / after)
    expected = np.abs(own * later)
    np.testing.assert_allclose(
        sampler_gains(scheduler, STEPS), expected / expected.mean(), rtol=1e-4
    )


def test_flow_matching_weighs_steps_by_their_length():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    gains = sampler_gains(scheduler, STEPS)
    scheduler.set_timesteps(STEPS)
    lengths = -np.diff(scheduler.sigmas.double().numpy())
    np.testing.assert_allclose(gains, lengths / lengths.mean(), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_multistep_solver_is_linear_too():
    gains = sampler_gains(DPMSolverMultistepScheduler(), STEPS)
    assert gains.shape == (STEPS,)
    assert gains.mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "scheduler",
    [DDPMScheduler(), FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), object()],
    ids=["draws noise", "wants a shift", "is no scheduler"],
)
def test_what_cannot_be_probed_has_no_gains(scheduler):
    assert sampler_gains(scheduler, STEPS) is None


def test_neither_the_scheduler_nor_the_random_numbers_change():
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(4)
    before, state = scheduler.timesteps.clone(), torch.random.get_rng_state()
    sampler_gains(scheduler, STEPS)
    assert torch.equal(scheduler.timesteps, before)
    assert torch.equal(torch.random.get_rng_state(), state)
