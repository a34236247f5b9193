# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from genaccel.speculative_sr.flow import SpeculativeSteps, between, merged, published_sigmas


def test_the_schedule_is_the_published_one():
    assert [round(sigma, 5) for sigma in published_sigmas()] == [0.69982, 0.60031, 0.50060, 0.40082]


def test_the_true_velocity_leads_to_the_good_picture_at_every_step():
    torch.manual_seed(0)
    low, high = torch.rand(2, 1, 3, 8, 8, dtype=torch.float64)
    steps = SpeculativeSteps((1.0, 0.6, 0.25))
    seen = []

    def base(state, enlarged, sigma):
        assert torch.equal(state, low)
        assert torch.equal(enlarged, low)
        return low - high, "features"

    def draft(state, enlarged, sigma, features):
        assert features == "features"
        assert torch.equal(enlarged, low)
        # From sigma 1 on, states lie on the line between the pictures.
        torch.testing.assert_close(state, between(high, low, sigma), rtol=0, atol=1e-12)
        seen.append(sigma)
        return low - high

    for estimate in steps.run(low, base, draft):
        torch.testing.assert_close(estimate, high, rtol=0, atol=1e-12)
    assert seen == [0.6, 0.25]


def test_states_are_those_of_the_published_script():
    torch.manual_seed(0)
    low, *velocities = torch.rand(5, 1, 3, 8, 8, dtype=torch.float64)
    sigmas = published_sigmas()
    left = iter(velocities[1:])
    found = SpeculativeSteps(sigmas).run(
        low, lambda *_: (velocities[0], None), lambda *_: next(left)
    )
    state = low - (sigmas[0] - sigmas[1]) * velocities[0]
    expected = [low - sigmas[0] * velocities[0]]
    for place in (1, 2, 3):
        expected.append(state - sigmas[place] * velocities[place])
        if place < 3:
            state = state - (sigmas[place] - sigmas[place + 1]) * velocities[place]
    for estimate, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(estimate, wanted, rtol=0, atol=1e-12)


def test_no_gradient_goes_from_a_step_into_the_one_before():
    scale = torch.ones(2, requires_grad=True)
    steps = iter((0, 1))
    low = torch.ones(1, 1, 2, 2)
    _, _, last = SpeculativeSteps((0.9, 0.6, 0.3)).run(
        low, lambda *_: (low, None), lambda *_: low * scale[next(steps)]
    )
    last.sum().backward()
    assert scale.grad[0] == 0
    assert scale.grad[1] != 0


def test_one_update_is_of_the_last_draft_and_iterated_ones_of_each():
    pictures = ["base", "first", "second"]

    def update(faithful, sharp):
        return f"({faithful}+{sharp})"

    assert merged(pictures, update) == "(base+second)"
    assert merged(pictures, update, mode="iterate") == "((base+first)+second)"
    for mode in ("final", "iterate"):
        assert merged(pictures[:1], update, mode=mode) == "base"
    with pytest.raises(ValueError, match='mode must be "final" or "iterate"'):
        merged(pictures, update, mode="last")
    with pytest.raises(ValueError, match="at least the picture of the base"):
        merged([], update)


@pytest.mark.parametrize("sigmas", [(), (0.5, 0.5), (0.5, 0.6), (1.1, 0.5), (0.5, 0.0), ("a",)])
def test_levels_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(ValueError, match=r"sigmas must fall within \(0, 1\]"):
        SpeculativeSteps(sigmas)
