# SPDX-License-Identifier: Apache-2.0
"""Plans that spend a part of their budget on tokens and submodules."""

from dataclasses import replace

import numpy as np
import pytest

import genaccel
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.planning.partial_plan import (
    MAX_STEP_KINDS,
    limit_step_kinds,
    plan_for_speedup,
)
from genaccel.sensitivity.planning.planner import make_plan, segment_errors
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.plans.stretch import stretch_steps
from genaccel.sensitivity.study.calibrate import calibrate

PRUNED = {"pruning_share": 0.2, "forecasters": ("reuse",)}


def asking(speedup, **values):
    """A config of options of its own and of the planner."""
    return SensitivityConfig(speedup=speedup).changed(**values)


@pytest.fixture
def measured(pipeline, calls):
    return calibrate(pipeline, calls, SensitivityConfig(speedup=2.0, pruning_share=0.2))[
        "transformer"
    ]


@pytest.mark.parametrize(
    "values",
    [
        PRUNED,
        {"pruning_share": 0.1},
        {"granularity": "module"},
        {"granularity": "mixed"},
        {"granularity": "module", **PRUNED},
    ],
)
def test_plans_keep_the_budget(measured, values):
    config = asking(1.7, **values)
    plan = plan_for_speedup(measured, config, speedup=1.7)
    assert plan.flop_fraction <= 1 / 1.7 + 1e-9
    assert plan.partial_mask.any()
    assert not (plan.partial_mask & plan.compute_mask).any()
    if config.pruning_share:
        assert plan.token_counts is not None
        assert plan.segment_of_layer == (0,) * 4
        rows = {tuple(row) for row in plan.token_counts[plan.partial_mask[:, 0], :, 0].tolist()}
        assert 1 <= len(rows - {(0,) * 4}) <= MAX_STEP_KINDS


def test_mixed_plans_forecast_submodules_where_that_is_worth_the_most(measured):
    config = SensitivityConfig(speedup=2.0, granularity="mixed")
    plan = plan_for_speedup(measured, config, speedup=2.0)
    computed, submodules = plan.compute_mask[:, 0], plan.partial_mask[:, 0]
    others = ~computed & ~submodules
    assert 1 <= submodules.sum() <= others.sum() + 1
    assert computed[np.flatnonzero(submodules) - 1].all()
    errors = segment_errors(measured, config.changed(forecasters=plan.forecasters))
    price = errors[plan.forecaster_index[:, 0], np.arange(len(computed)), 0].sum(axis=1)
    behind = others & np.roll(computed, 1)
    assert price[submodules].min() >= max(price[behind], default=0)
    # What they are worth is in the price of the budget: never more steps computed than with segments alone.
    alone = plan_for_speedup(measured, SensitivityConfig(speedup=2.0), speedup=2.0)
    assert computed.sum() <= alone.compute_mask[:, 0].sum()


def test_a_mixed_plan_runs_both_kinds_of_steps_and_survives_the_disk(
    pipeline, sample, measured, tmp_path
):
    config = SensitivityConfig(speedup=2.0, granularity="mixed")
    plan_for_speedup(measured, config, speedup=2.0).save_pretrained(tmp_path)
    plan = Plan.from_pretrained(tmp_path)
    letters = np.where(plan.compute_mask, "C", np.where(plan.partial_mask, "p", "f"))[:, 0]
    assert set(letters) == set("Cpf")
    with genaccel.enable(pipeline, SensitivityConfig(plan=tmp_path)) as handle:
        sample(pipeline)
        report = handle.report()["transformer"]
    assert report.schedule.replace(".", "f") == "".join(letters)
    assert report.flop_ratio == pytest.approx(1 / plan.flop_fraction)
    longer = stretch_steps(plan, 16)
    assert longer.partial_mask.any()
    assert (longer.partial_mask != ~longer.compute_mask).any()


def test_a_module_mask_that_does_not_fit_is_refused(measured):
    config = SensitivityConfig(speedup=2.0, granularity="mixed")
    plan = plan_for_speedup(measured, config, speedup=2.0)
    with pytest.raises(ValueError, match="set only where nothing is computed"):
        replace(plan, module_mask=plan.compute_mask)
    for changes in ({"granularity": "module"}, {"module_mask": None}):
        with pytest.raises(ValueError, match='belongs to granularity "mixed"'):
            replace(plan, **changes)


def test_without_partial_steps_it_is_the_plain_plan(measured):
    config = SensitivityConfig(speedup=2.0)
    plan = plan_for_speedup(measured, config, speedup=2.0)
    np.testing.assert_array_equal(
        plan.compute_mask, make_plan(measured, config, speedup=2.0).compute_mask
    )
    assert not plan.partial_mask.any()
    assert plan.token_counts is None


def test_tokens_cost_computed_steps(measured):
    plans = [
        plan_for_speedup(
            measured,
            asking(1.5, pruning_share=share, forecasters=("reuse",)),
            speedup=1.5,
        )
        for share in (0.0, 0.3)
    ]
    assert plans[1].compute_mask.sum() < plans[0].compute_mask.sum()


def test_tokens_need_their_measurement(pipeline, calls):
    config = SensitivityConfig(speedup=1.7, granularity="module")
    measured = calibrate(pipeline, calls, config)["transformer"]
    with pytest.raises(ValueError, match="feed-forwards were not measured"):
        plan_for_speedup(measured, asking(1.7, **PRUNED), speedup=1.7)


def test_a_model_without_such_submodules_is_refused_with_a_sentence(pipeline, calls):
    measured = calibrate(pipeline, calls)["transformer"]
    with pytest.raises(ValueError, match="attention and feed-forward as modules"):
        plan_for_speedup(measured, asking(1.7, **PRUNED), speedup=1.7)


def test_on_such_a_model_segments_are_skipped_all_the_same_and_the_report_says_so(pipeline, sample):
    for block in pipeline.transformer.transformer_blocks:
        block.add_module("mixer", block._modules.pop("ff"))
        type(block).ff = property(lambda self: self.mixer)
    try:
        plain = sample(pipeline)
        handle = genaccel.enable(pipeline, asking(1.7, **PRUNED))
        assert torch_equal(sample(pipeline), plain)
        sample(pipeline)
        report = handle.report()["transformer"]
        assert report.forecast_segments > 0
        assert report.partial_segments == 0
        assert any("attention and feed-forward" in note for note in report.notes)
    finally:
        del type(pipeline.transformer.transformer_blocks[0]).ff


def test_the_doctor_counts_blocks_that_can_run_partially(pipeline, sample):
    handle = genaccel.enable(pipeline, asking(1.7, **PRUNED))
    sample(pipeline)
    notes = handle.doctor()["transformer"].notes
    assert any(
        "4 of 4 blocks can run on forecasts of their submodules, 4" in note for note in notes
    )


@pytest.mark.parametrize("score", ["mean", "drift", "random"])
@pytest.mark.parametrize("granularity", ["segment", "module"])
def test_the_flag_measures_then_prunes_as_planned(pipeline, sample, score, granularity):
    plain = sample(pipeline)
    config = asking(1.7, pruning_share=0.2, token_score=score, granularity=granularity)
    handle = genaccel.enable(pipeline, config)
    assert torch_equal(sample(pipeline), plain)
    replayed = sample(pipeline)
    assert not torch_equal(replayed, plain)
    assert torch_equal(sample(pipeline), replayed)
    report = handle.report()["transformer"]
    plan = handle.plans["transformer"]
    assert "p" in report.schedule
    assert report.flop_ratio == pytest.approx(1 / plan.flop_fraction)
    assert report.flop_ratio >= 1.7 * (1 - 1e-9)
    assert report.peak_bytes > 0
    handle.disable()
    assert torch_equal(sample(pipeline), plain)


def test_a_stored_plan_prunes_without_being_asked_again(pipeline, sample, build_pipeline, tmp_path):
    handle = genaccel.enable(pipeline, asking(1.7, **PRUNED))
    sample(pipeline)
    expected = sample(pipeline)
    handle.save_pretrained(tmp_path / "plan")
    other = build_pipeline()
    handle = genaccel.enable(other, SensitivityConfig(plan=tmp_path / "plan"))
    assert torch_equal(sample(other), expected)
    assert "p" in handle.report()["transformer"].schedule


def test_other_settings_find_no_plan_of_partial_steps(pipeline, sample):
    with genaccel.enable(pipeline, asking(1.7, **PRUNED)):
        sample(pipeline)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=1.7))
    sample(pipeline)
    sample(pipeline)
    assert "p" not in handle.report()["transformer"].schedule


def test_plans_with_tokens_survive_the_disk_and_stretching(measured, tmp_path):
    plan = plan_for_speedup(measured, asking(1.7, **PRUNED), speedup=1.7)
    plan.save_pretrained(tmp_path)
    read = Plan.from_pretrained(tmp_path)
    np.testing.assert_array_equal(read.token_counts, plan.token_counts)
    assert read.granularity == "segment"
    longer = stretch_steps(read, 14)
    assert longer.partial_mask.any()


def test_a_plan_for_other_layers_is_not_used(measured, build_pipeline, sample, tmp_path, caplog):
    plan = plan_for_speedup(measured, asking(1.7, **PRUNED), speedup=1.7)
    other = build_pipeline(layers=3)
    plain = sample(other)
    plan.save_pretrained(tmp_path / "plan")
    handle = genaccel.enable(other, SensitivityConfig(plan=tmp_path / "plan"))
    for _ in range(2):
        assert torch_equal(sample(other), plain)
    assert handle.report()["transformer"].partial_segments == 0
    assert caplog.text.count("It is not used; calibrate for this run") == 1
    # Layers that a plan does not know can't be told how many tokens to compute.
    handle.models["transformer"].director.forced = plan
    assert torch_equal(sample(other), plain)


def test_measuring_feed_forwards_resumes_to_equal_sums(pipeline, build_pipeline, calls, tmp_path):
    config = asking(2.0, pruning_share=0.2, token_score="drift")
    whole = calibrate(pipeline, calls, config)["transformer"]
    file = tmp_path / "calibration.safetensors"
    other = build_pipeline()
    plain, count = type(other).__call__, []

    class Interrupted(type(other)):
        def __call__(self, **arguments):
            count.append(1)
            if len(count) == 2:
                raise KeyboardInterrupt
            return plain(self, **arguments)

    other.__class__ = Interrupted
    with pytest.raises(KeyboardInterrupt):
        calibrate(other, calls, config, checkpoint=file)
    for _ in range(2):  # the second time, all of it was measured before
        done = calibrate(other, calls, config, checkpoint=file)["transformer"]
        np.testing.assert_array_equal(
            done.feed_forwards.reuse_errors(), whole.feed_forwards.reuse_errors()
        )
        np.testing.assert_array_equal(
            done.feed_forwards.partial_errors(), whole.feed_forwards.partial_errors()
        )


def test_partial_steps_need_one_schedule_and_a_forecaster_they_can_use():
    with pytest.raises(ValueError, match="need shared_schedule=True"):
        asking(2.0, granularity="module", shared_schedule=False)
    with pytest.raises(ValueError, match='pruning_share needs granularity="segment" or "module"'):
        SensitivityConfig(speedup=2.0, granularity="mixed", pruning_share=0.1)
    with pytest.raises(ValueError, match="affine knows no outputs of submodules"):
        asking(2.0, pruning_share=0.1, forecasters=("affine",))
    with pytest.raises(ValueError, match=r"pruning_share must be in \[0, 1\), got 1"):
        SensitivityConfig(speedup=2.0, pruning_share=1)
    assert "affine" not in asking(2.0, granularity="module").planner.forecasters


def test_kinds_of_steps_are_limited_within_the_tokens():
    counts = np.random.default_rng(0).integers(0, 16, (40, 5)).astype(np.int32) * 4
    counts[::3] = 0
    limited = limit_step_kinds(counts, 3, 4)
    assert len(np.unique(limited[limited.any(axis=1)], axis=0)) <= 3
    assert limited.sum() <= counts.sum()
    assert (limited % 4 == 0).all()
    assert not limited[::3].any()
    np.testing.assert_array_equal(limit_step_kinds(counts[:3], 3, 4), counts[:3])


def torch_equal(a, b):
    return bool((a == b).all())
