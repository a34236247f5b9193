# SPDX-License-Identifier: Apache-2.0
"""How far an error of the model at each step carries into the finished sample.

Errors of blocks are not worth the same at every step: a sampler multiplies the model's output by
factors that differ tenfold over a run. Ours to weigh the errors of SODA (arXiv:2603.07057) with.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def sampler_gains(scheduler: Any, num_inference_steps: int) -> NDArray[np.float64] | None:
    """Response of the finished sample to a model output of 1 at one step and 0 at all others.

    The samplers of diffusers are linear in the model's outputs once noise and clipping are off, so
    one run of the scheduler alone, with an impulse at another step in each row, gives all of it.
    What later calls of the model would make of the difference is left out.

    Args:
        scheduler: Of a pipeline; it is copied.
        num_inference_steps: S.

    Returns:
        ``[S]``, mean 1, or None for a scheduler that is not linear or cannot run without a model.
    """
    # Some draw noise, and the user's random numbers are not to depend on us.
    with torch.random.fork_rng(devices=[]):
        responses = [_responses(scheduler, num_inference_steps, size) for size in (1.0, 2.0)]
    one, two = responses
    if one is None or two is None or not np.allclose(2 * one, two, rtol=1e-3, atol=1e-6):
        return None
    gains = np.abs(one)
    mean = float(gains.mean())
    return gains / mean if np.isfinite(mean) and mean > 0 else None


def _responses(scheduler: Any, steps: int, size: float) -> NDArray[np.float64] | None:
    probe = copy.deepcopy(scheduler)
    try:
        probe.set_timesteps(steps)
        if len(probe.timesteps) != steps:
            return None
        sample = torch.zeros(steps, 1, 2, 2, dtype=torch.float64)
        for i, timestep in enumerate(probe.timesteps):
            if hasattr(probe, "scale_model_input"):
                probe.scale_model_input(sample, timestep)  # some count their steps there
            output = torch.zeros_like(sample)
            output[i] = size
            sample = probe.step(output, timestep, sample, return_dict=False)[0].double()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return None
    result: NDArray[np.float64] = sample[:, 0, 0, 0].numpy()
    return result if np.isfinite(result).all() else None
