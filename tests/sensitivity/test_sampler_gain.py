# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from genaccel.sensitivity.measure.sampler_gain import gaussian_response, sampler_gains

STEPS = 10


def ddim():
    """The scheduler, its alphas before and after each step, and its steps ``x' = a x + b e``."""
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(STEPS)
    ahead = 1000 // STEPS
    alphas = np.array([float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps])
    after = np.array(
        [float(scheduler.alphas_cumprod[max(0, int(t) - ahead)]) for t in scheduler.timesteps]
    )
    after[-1] = float(scheduler.final_alpha_cumprod)
    own = np.sqrt(1 - after) - np.sqrt(after * (1 - alphas) / alphas)
    return scheduler, alphas, np.sqrt(after / alphas), own


def carried(own, factors):
    """Effect of each step, when later ones multiply the sample by their factors; mean 1."""
    later = np.append(np.cumprod(factors[::-1])[::-1][1:], 1.0)
    gains = np.abs(own * later)
    return gains / gains.mean()


def test_ddim_has_the_analytic_gains():
    scheduler, alphas, scale, own = ddim()
    # The model for normal data of variance 20 answers a change of the sample with a change of e.
    answers = np.sqrt(1 - alphas) / (20 * alphas + 1 - alphas)
    expected = carried(own, scale + own * answers)
    np.testing.assert_allclose(sampler_gains(scheduler, STEPS), expected, rtol=1e-4)


def test_flow_matching_has_the_analytic_gains():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    gains = sampler_gains(scheduler, STEPS)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.double().numpy()
    lengths, now = np.diff(sigmas), sigmas[:-1]
    answers = (now - 20 * (1 - now)) / (20 * (1 - now) ** 2 + now**2)
    np.testing.assert_allclose(gains, carried(lengths, 1 + lengths * answers), rtol=1e-4)


def test_a_model_that_nothing_is_known_of_does_not_answer():
    scheduler, _, scale, own = ddim()
    scheduler.register_to_config(prediction_type="epsilon")
    plain = sampler_gains(scheduler, STEPS)
    scheduler.alphas_cumprod = HiddenAlphas(scheduler.alphas_cumprod)
    expected = np.abs(own * np.append(np.cumprod(scale[::-1])[::-1][1:], 1.0)) ** 0.75
    gains = sampler_gains(scheduler, STEPS)
    np.testing.assert_allclose(gains, expected / expected.mean(), rtol=1e-4)
    assert not np.allclose(gains, plain, rtol=0.1)


class HiddenAlphas:
    """Alphas that can be asked for one by one, but are no array."""

    def __init__(self, alphas):
        self.alphas = alphas

    def __getitem__(self, index):
        return self.alphas[index]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_all_predictions_of_one_model_lead_to_one_sample(kind):
    # The ideal model for normal data takes a sample to the same place, however it says it.
    signal, noise, variance = 0.6, 0.8, 4.0
    slope = gaussian_response(signal, noise, kind, variance)
    data = {
        "epsilon": (1 - noise * slope) / signal,
        "sample": slope,
        "v_prediction": signal - noise * slope,
    }[kind]
    assert data == pytest.approx(signal * variance / (signal**2 * variance + noise**2))


def test_the_gaussian_answer_to_flow_matching_is_the_mean_velocity():
    random = np.random.default_rng(0)
    data, noise = 3 * random.normal(size=200_000), random.normal(size=200_000)
    noisy = 0.7 * data + 0.3 * noise
    fitted = (noise - data) @ noisy / (noisy @ noisy)
    assert gaussian_response(0.7, 0.3, "flow_prediction", 9.0) == pytest.approx(fitted, rel=0.01)
    assert gaussian_response(0.7, 0.3, "something else") is None


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_scaled_and_bounded_samples_have_about_the_same_gains(kind):
    # Euler's noise grows without bounds where DDIM's sample shrinks; the rest is the same solver.
    bounded = sampler_gains(
        DDIMScheduler(
            clip_sample=False,
            prediction_type=kind,
            timestep_spacing="linspace",
            set_alpha_to_one=True,
        ),
        20,
    )
    growing = sampler_gains(EulerDiscreteScheduler(prediction_type=kind), 20)
    np.testing.assert_allclose(growing[:-2], bounded[:-2], rtol=0.2)


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
