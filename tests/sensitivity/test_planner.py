# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
import torch

from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.measure.calibration_moments import CalibrationMoments
from genaccel.sensitivity.planning.deviation import Candidate, Deviation
from genaccel.sensitivity.planning.planner import (
    Measurements,
    best_speedup,
    check_reachable,
    make_plan,
    segment_errors,
)
from genaccel.sensitivity.planning.schedule import ScheduleConfig, solve_schedule
from genaccel.sensitivity.plans.fingerprint import Fingerprint

STEPS = 12


@pytest.fixture
def measure():
    """Measures segments that walk at random, the second one further."""

    def measured(
        *, begin=0, gains=None, max_interval=6, segment_flops=(40, 50), tensors=1
    ) -> Measurements:
        moments = CalibrationMoments(
            num_steps=STEPS,
            max_interval=max_interval,
            num_segments=len(segment_flops),
            num_tensors=tensors,
        )
        random = torch.Generator().manual_seed(0)
        states = [torch.ones(1, 8) for _ in segment_flops]
        for step in range(begin, STEPS):
            for g in range(len(states)):
                states[g] = states[g] + 0.1 * (g + 1) * torch.randn(1, 8, generator=random)
                moments.observe(step, g, 0, states[g])
        return Measurements(
            moments=moments,
            segment_flops=segment_flops,
            total_flops=sum(segment_flops) + 10,
            fingerprint=Fingerprint(
                model_class="A",
                model_config_digest="",
                scheduler_class="B",
                scheduler_config_digest="",
                num_inference_steps=STEPS,
                height=8,
                width=8,
            ),
            gains=gains,
        )

    return measured


def flops_of(plan, measured):
    """FLOPs of a run, over those of the plain one."""
    fixed = measured.total_flops - sum(measured.segment_flops)
    computed = (plan.compute_mask * np.array(measured.segment_flops)).sum()
    return (STEPS * fixed + computed) / (STEPS * measured.total_flops)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("speedup", [1.2, 2.0, 3.0])
def test_plans_keep_their_budget_and_use_it_up(measure, shared, speedup):
    measured = measure()
    config = SensitivityConfig(speedup=speedup).changed(shared_schedule=shared, max_interval=6)
    plan = make_plan(measured, config, speedup=speedup)
    assert plan.flop_fraction == pytest.approx(flops_of(plan, measured))
    # Steps are whole: a shared schedule may be slower by 2 % for one more of them.
    assert 1 / plan.flop_fraction >= speedup * (0.98 if shared else 1)
    step = max(measured.segment_flops) if not shared else sum(measured.segment_flops)
    spare = STEPS * measured.total_flops * (1 / speedup - plan.flop_fraction)
    assert spare < step
    if shared:
        assert (plan.compute_mask == plan.compute_mask[:, :1]).all()


def test_segments_of_their_own_are_never_worse(measure):
    measured = measure()
    errors = [
        make_plan(
            measured,
            # Shortest paths are exact, the search from them is not.
            SensitivityConfig(speedup=2.0).changed(
                shared_schedule=shared,
                max_interval=6,
                objective="sum",
                metric="cosine",
            ),
            speedup=2.1,
        ).expected_error
        for shared in (True, False)
    ]
    assert errors[1] <= errors[0] + 1e-9


def test_weights_of_steps_scale_the_errors(measure):
    gains = np.linspace(0.5, 1.5, STEPS)
    measured = measure(gains=gains)
    plain = segment_errors(measured, SensitivityConfig(speedup=2.0).changed(weigh_steps=False))
    weighed = segment_errors(measured, SensitivityConfig(speedup=2.0).changed(weigh_steps=True))
    np.testing.assert_allclose(weighed, plain * gains[:, None, None])
    without = segment_errors(measure(), SensitivityConfig(speedup=2.0).changed(weigh_steps=True))
    np.testing.assert_allclose(without, plain)


def test_half_of_the_steps_are_what_twice_as_fast_means(measure):
    # 10 % of the FLOPs are spent anyway: 5.33 of 12 steps at 2x, 5.95 at 1.85x.
    for speedup, count in ((2.0, 5), (1.85, 6)):
        config = SensitivityConfig(speedup=speedup, max_interval=6)
        plan = make_plan(measure(), config, speedup=speedup)
        assert plan.compute_mask[:, 0].sum() == count
    measured = measure(segment_flops=(44, 55))  # 1 % outside
    assert measured.total_flops == 109
    thin = replace(measured, total_flops=100)
    plan = make_plan(thin, SensitivityConfig(speedup=2.0), speedup=2.0)
    assert plan.compute_mask[:, 0].sum() == 6
    assert 1.98 < 1 / plan.flop_fraction < 2.0


def test_the_last_step_is_computed_where_it_matters_or_nothing_is_known(measure):
    gains = np.ones(STEPS)
    gains[-1] = 0.0
    for known, computed in ((None, True), (gains, False)):
        plan = make_plan(measure(gains=known), SensitivityConfig(speedup=2.0), speedup=2.0)
        assert plan.compute_mask[-1].all() == computed
    heavy = np.ones(STEPS)
    heavy[-1] = 100.0
    plan = make_plan(measure(gains=heavy), SensitivityConfig(speedup=3.0), speedup=3.0)
    assert plan.compute_mask[-1].all()


@pytest.mark.parametrize(
    "options", [{"metric": "cosine"}, {"edge_cost": "endpoint"}, {"metric": "l1"}]
)
def test_other_prices_are_those_of_the_paper(measure, options):
    measured = measure(gains=np.linspace(2, 0, STEPS))
    config = SensitivityConfig(speedup=2.0).changed(
        objective="sum", forecasters=("reuse",), **options
    )
    plan = make_plan(measured, config, speedup=2.0)
    errors = segment_errors(measured, config).sum(axis=3)
    path = ScheduleConfig(edge_cost=config.planner.edge_cost, objective="sum")
    expected = solve_schedule(errors, int(plan.compute_mask[:, 0].sum()), path)
    assert np.flatnonzero(plan.compute_mask[:, 0]).tolist() == list(expected.compute_steps)
    assert plan.compute_mask[-1].all()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("speedup", [1.3, 2.0, 3.0])
def test_plans_cost_no_more_than_even_spacing(measure, speedup, shared):
    measured = measure(gains=np.linspace(2, 0.1, STEPS), tensors=2)
    config = SensitivityConfig(speedup=speedup).changed(shared_schedule=shared, max_interval=6)
    plan = make_plan(measured, config, speedup=speedup)
    even = make_plan(measured, config, speedup=speedup, even=True)
    assert even.flop_fraction == pytest.approx(plan.flop_fraction)
    for g in range(2):
        gaps = np.diff(np.flatnonzero(even.compute_mask[:, g]))
        assert gaps.max() - gaps.min() <= 1
        assert len(set(even.forecaster_index[~even.compute_mask[:, g], g].tolist())) == 1
    gram = measured.moments.gram()
    groups = [[0, 1]] if shared else [[0], [1]]
    for group in groups:
        deviation = Deviation([gram[g, 0] for g in group], measured.gains, plan.forecasters)
        candidates = [
            Candidate(made.compute_mask[:, group[0]], made.forecaster_index[:, group[0]])
            for made in (plan, even)
        ]
        prices = deviation(candidates)
        assert prices[0] <= prices[1] * (1 + 1e-9)


def test_the_affine_corrector_takes_no_part_in_the_search(measure):
    measured = measure()
    plan = make_plan(measured, SensitivityConfig(speedup=2.0), speedup=2.0)
    without = SensitivityConfig(speedup=2.0).changed(forecasters=("reuse", "taylor1", "taylor2"))
    assert plan.forecasters == without.planner.forecasters
    same = make_plan(measured, without, speedup=2.0)
    np.testing.assert_array_equal(plan.forecaster_index, same.forecaster_index)


@pytest.mark.parametrize(
    "options", [{"forecasters": ("affine",)}, {"metric": "cosine"}, {"edge_cost": "endpoint"}]
)
def test_even_spacing_needs_a_search(measure, options):
    with pytest.raises(ValueError, match=r"even spacing needs a config .* besides affine"):
        make_plan(
            measure(), SensitivityConfig(speedup=2.0).changed(**options), speedup=2.0, even=True
        )


def test_affine_tables_are_only_kept_where_they_are_used(measure):
    measured = measure()
    reuse = make_plan(
        measured, SensitivityConfig(speedup=2.0).changed(forecasters=("reuse",)), speedup=2.0
    )
    assert reuse.affine_slope is None
    assert reuse.forecasters == ("reuse",)
    affine = SensitivityConfig(speedup=2.0).changed(forecasters=("affine",))
    plan = make_plan(measured, affine, speedup=2.0)
    assert plan.affine_slope.shape == (STEPS, 6, 2, 1)


def test_tensors_that_a_segment_does_not_return_do_not_count(measure):
    one, two = measure(), measure(tensors=2)
    config = SensitivityConfig(speedup=2.0)
    np.testing.assert_allclose(segment_errors(one, config), segment_errors(two, config))


def test_warmup_steps_are_computed(measure):
    plan = make_plan(measure(), SensitivityConfig(speedup=1.5).changed(warmup_steps=4), speedup=1.5)
    assert plan.compute_mask[:4].all()


def test_steps_that_were_left_out_are_computed_and_not_paid_for(measure):
    measured = measure(begin=6)
    plan = make_plan(measured, SensitivityConfig(speedup=2.0), speedup=2.0)
    assert plan.compute_mask[:7].all()
    assert plan.flop_fraction <= 0.5
    assert plan.compute_mask[6:].mean(axis=0).tolist() == pytest.approx([2 / 6, 2 / 6])


def test_the_best_speedup_is_met_and_nothing_above_it(measure):
    measured = measure(max_interval=6)
    best = best_speedup(
        segment_flops=(40, 50), total_flops=100, warmup_steps=1, steps=STEPS, max_interval=6
    )
    assert best == pytest.approx(12 / (3 + 9 * 0.1))
    config = SensitivityConfig(speedup=best).changed(forecasters=("reuse",))
    assert make_plan(measured, config, speedup=best).compute_mask.any(axis=1).sum() == 3
    with pytest.raises(ValueError, match=r"reach: with 3 of 12 .* 10.0% .*, 3.08 is the most"):
        make_plan(measured, config, speedup=best * 1.01)


@pytest.mark.parametrize(
    ("steps", "warmup", "interval", "computed"),
    [(1, 1, 8, 1), (2, 1, 8, 2), (8, 1, 8, 2), (9, 1, 8, 2), (10, 1, 8, 3), (11, 3, 8, 4), (12, 3, 8, 5), (5, 9, 2, 5), (5, 1, 1, 5)],
)  # fmt: skip
def test_the_fewest_steps_that_can_be_computed(steps, warmup, interval, computed):
    options = {"warmup_steps": warmup, "steps": steps, "max_interval": interval}
    best = best_speedup(segment_flops=(100,), total_flops=100, **options)
    assert best == pytest.approx(steps / computed)


def test_a_model_without_segments_is_explained():
    with pytest.raises(ValueError, match=r"100.0% of the FLOPs outside of the blocks, 1 is the"):
        check_reachable(
            1.5, segment_flops=(), total_flops=10, warmup_steps=1, steps=5, max_interval=8
        )


def test_a_forecaster_that_is_measured_late_takes_no_steps_from_the_budget(measure):
    measured = measure()
    config = SensitivityConfig(speedup=2.0).changed(forecasters=("taylor1",))
    plan = make_plan(measured, config, speedup=2.0)
    assert plan.flop_fraction <= 0.5
    assert plan.flop_fraction == pytest.approx(flops_of(plan, measured))
