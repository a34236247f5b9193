# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from genaccel.sensitivity.pruning.pruning import partial_update_error
from genaccel.sensitivity.pruning.pruning_moments import PruningMoments


def moments():
    return PruningMoments(num_steps=4, num_layers=2, max_interval=2, rates=(0.25, 0.5))


def outputs(count=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 8, 5, generator=generator) for _ in range(count)]


def test_errors_are_those_of_the_definitions():
    measured, made = moments(), outputs()
    scores = torch.rand(3, 8)
    for step, output in enumerate(made):
        measured.observe(step, 0, scores, output)
    cosine = torch.cosine_similarity(made[1].flatten(1), made[3].flatten(1)).mean()
    assert measured.reuse_errors()[3, 1, 0] == pytest.approx(1 - float(cosine), rel=1e-5)
    expected = partial_update_error(made[3], made[2], scores, [2, 4]).mean(0)
    np.testing.assert_allclose(measured.partial_errors()[3, 0], expected, rtol=1e-9)


def test_what_was_not_measured_is_nan():
    measured = moments()
    for step, output in enumerate(outputs()):
        measured.observe(step, 0, torch.rand(3, 8), output)
    assert np.isnan(measured.reuse_errors()[0]).all()
    assert np.isnan(measured.reuse_errors()[1, 1]).all()
    assert np.isnan(measured.partial_errors()[:, 1]).all()


def test_streams_and_generations_do_not_mix():
    measured, made = moments(), outputs()
    measured.observe(0, 0, torch.rand(3, 8), made[0], stream=0)
    measured.observe(1, 0, torch.rand(3, 8), made[1], stream=1)
    assert np.isnan(measured.reuse_errors()).all()
    measured.start_generation()
    measured.observe(1, 0, torch.rand(3, 8), made[1], stream=0)
    assert np.isnan(measured.reuse_errors()).all()


def test_sums_go_on_after_a_restart():
    whole, parts = moments(), moments()
    made, scores = outputs(), torch.rand(3, 8)
    for generation in range(2):
        for measured in (whole, parts):
            measured.start_generation()
            for step, output in enumerate(made):
                measured.observe(step, 1, scores, output + generation)
        if generation == 0:
            resumed = moments()
            resumed.load_state_dict(parts.state_dict())
            parts = resumed
    np.testing.assert_array_equal(whole.reuse_errors(), parts.reuse_errors())
    np.testing.assert_array_equal(whole.partial_errors(), parts.partial_errors())


def test_foreign_states_are_refused():
    other = PruningMoments(num_steps=5, num_layers=2, max_interval=2, rates=(0.25, 0.5))
    with pytest.raises(ValueError, match="no reuse of the right size"):
        moments().load_state_dict(other.state_dict())
