# SPDX-License-Identifier: Apache-2.0
"""``genaccel.enable`` on a small pipeline, as a user has it."""

import dataclasses
import logging

import diffusers
import pytest
import torch

import genaccel
from genaccel import SensitivityConfig
from genaccel.sensitivity.plan import Plan
from genaccel.sensitivity.plan_library import PlanEntry, PlanLibrary


def folders_of_plans(tmp_path):
    return sorted(p.parent for p in (tmp_path / "cache" / "plans").rglob("*.json"))


def test_the_first_run_is_plain_and_leaves_a_plan_that_the_next_one_replays(
    pipeline, sample, tmp_path
):
    plain = sample(pipeline)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=2.0))
    assert handle.plans == {"transformer": None}
    assert torch.equal(sample(pipeline), plain)
    assert len(folders_of_plans(tmp_path)) == 1
    replayed = sample(pipeline)
    assert not torch.equal(replayed, plain)
    assert torch.equal(sample(pipeline), replayed)
    schedule = handle.plans["transformer"].steps_computation_mask()
    assert handle.report()["transformer"].schedule == "".join("fC"[c] for c in schedule)
    with handle.paused():
        assert torch.equal(sample(pipeline), plain)
    handle.disable()
    assert torch.equal(sample(pipeline), plain)


def test_another_process_finds_the_plan_of_the_first(pipeline, build_pipeline, sample):
    with genaccel.enable(pipeline, SensitivityConfig(speedup=2.0)):
        sample(pipeline)
        replayed = sample(pipeline)
    other = build_pipeline()
    handle = genaccel.enable(other, SensitivityConfig(speedup=2.0))
    assert torch.equal(sample(other), replayed)  # its first run already
    assert handle.plans["transformer"].fingerprint.num_inference_steps == 8


@pytest.mark.parametrize("speedup", [1.5, 2.0, 3.0])
def test_the_speedup_is_met_by_flops(pipeline, sample, speedup):
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=speedup))
    sample(pipeline, steps=12)
    sample(pipeline, steps=12)
    report = handle.report()["transformer"]
    assert report.flop_ratio >= speedup
    # One computed step more would miss it.
    one = report.plain_flops / 12
    assert report.plain_flops / (report.flops + one) < speedup
    plan = handle.plans["transformer"]
    assert 1 / plan.flop_fraction == pytest.approx(report.flop_ratio)


def test_a_speedup_out_of_reach_is_explained_before_the_run_is_paid_for(pipeline, sample):
    genaccel.enable(pipeline, SensitivityConfig(speedup=20.0))
    calls = []
    pipeline.vae.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=r"speed-up of 20 is out of reach: with 2 of 8 steps .* is the most"):  # fmt: skip
        sample(pipeline)
    assert not calls


def test_a_single_step_cannot_be_faster(pipeline, sample):
    genaccel.enable(pipeline, SensitivityConfig(speedup=2.0))
    with pytest.raises(ValueError, match="with 1 of 1 steps computed"):
        sample(pipeline, steps=1)


def test_max_interval_of_one_computes_every_step_and_says_so(pipeline, sample):
    genaccel.enable(pipeline, SensitivityConfig(speedup=1.5, max_interval=1))
    with pytest.raises(ValueError, match="8 of 8 steps computed, the first and what"):
        sample(pipeline)


@pytest.fixture
def plan_folder(build_pipeline, sample, tmp_path):
    """A plan of eight steps for the small pipeline."""
    made = build_pipeline()
    config = SensitivityConfig(speedup=2.0, cache_dir=tmp_path / "elsewhere")
    handle = genaccel.enable(made, config)
    with pytest.raises(ValueError, match="transformer has no plan yet"):
        handle.save_pretrained(tmp_path / "plan")
    sample(made)
    handle.save_pretrained(tmp_path / "plan")
    return tmp_path / "plan"


def test_a_given_folder_is_used_from_the_first_run(pipeline, sample, plan_folder, tmp_path):
    plain = sample(pipeline)
    handle = genaccel.enable(pipeline, SensitivityConfig(plan=plan_folder))
    assert not torch.equal(sample(pipeline), plain)
    assert handle.report()["transformer"].flop_ratio >= 2.0
    assert folders_of_plans(tmp_path) == []


def test_a_plan_for_another_model_is_refused(build_pipeline, sample, plan_folder):
    other = build_pipeline(layers=3)
    genaccel.enable(other, SensitivityConfig(plan=plan_folder))
    with pytest.raises(ValueError, match=r"of another configuration .* Calibrate for this run"):
        sample(other)


def test_a_plan_for_another_scheduler_is_refused(build_pipeline, sample, plan_folder):
    other = build_pipeline(scheduler=diffusers.DDPMScheduler())
    genaccel.enable(other, SensitivityConfig(plan=plan_folder))
    with pytest.raises(ValueError, match="made for the scheduler DDIMScheduler, this one is DDPM"):
        sample(other)


def test_another_resolution_is_said_and_used_nevertheless(
    build_pipeline, sample, plan_folder, caplog
):
    plan = Plan.from_pretrained(plan_folder / "transformer")
    taller = dataclasses.replace(plan.fingerprint, height=16)
    dataclasses.replace(plan, fingerprint=taller).save_pretrained(plan_folder / "transformer")
    other = build_pipeline()
    handle = genaccel.enable(other, SensitivityConfig(plan=plan_folder))
    with caplog.at_level(logging.WARNING):
        sample(other)
    assert "It is used nevertheless; calibrate to do better." in caplog.text
    assert handle.report()["transformer"].forecast_segments > 0


def test_a_plan_of_other_steps_is_stretched(pipeline, sample, plan_folder, caplog):
    handle = genaccel.enable(pipeline, SensitivityConfig(plan=plan_folder))
    with caplog.at_level(logging.WARNING):
        sample(pipeline, steps=16)
    assert "made for 8 steps and is stretched to 16" in caplog.text
    report = handle.report()["transformer"]
    assert len(report.schedule) == 16
    assert report.flop_ratio > 1.7


def test_plans_beside_the_model_are_found(build_pipeline, sample, plan_folder, tmp_path):
    build_pipeline(tmp_path / "model")
    plan = Plan.from_pretrained(plan_folder / "transformer")
    library = PlanLibrary(tmp_path / "model" / "sensitivity")
    library.add(plan, PlanEntry("two", "transformer", 1 / plan.flop_fraction))
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    handle = genaccel.enable(loaded, SensitivityConfig(speedup=2.0, cache_dir=tmp_path / "none"))
    sample(loaded)
    assert handle.report()["transformer"].flop_ratio >= 2.0
    assert not (tmp_path / "none").exists()
    folder, _ = handle.models["transformer"].stored_plan(plan.fingerprint)
    assert folder == tmp_path / "model" / "sensitivity" / "two"


@pytest.mark.parametrize("target", [{"min_psnr": 30.0}, {"max_lpips": 0.05}])
def test_a_quality_without_measured_plans_says_what_to_do(pipeline, sample, target):
    genaccel.enable(pipeline, SensitivityConfig(**target))
    with pytest.raises(ValueError, match=r"`genaccel tune`\) and name their folder in plan="):
        sample(pipeline)


def test_a_quality_chooses_among_measured_plans(pipeline, sample, plan_folder, tmp_path):
    plan = Plan.from_pretrained(plan_folder / "transformer")
    library = PlanLibrary(tmp_path / "library")
    library.add(plan, PlanEntry("good", "transformer", 1.5, psnr=40.0, st_lpips=0.01))
    faster = dataclasses.replace(plan, flop_fraction=plan.flop_fraction * 0.999)
    library.add(faster, PlanEntry("fast", "transformer", 3.0, psnr=25.0, st_lpips=0.2))
    for target in ({"min_psnr": 35.0}, {"max_lpips": 0.05}):
        with genaccel.enable(pipeline, SensitivityConfig(plan=library.folder, **target)) as handle:
            sample(pipeline)
            assert handle.plans["transformer"].flop_fraction == plan.flop_fraction
    config = SensitivityConfig(plan=library.folder, min_psnr=50.0)
    with (
        genaccel.enable(pipeline, config),
        pytest.raises(ValueError, match=r"no plan that meets the target; it has 1.50x, 3.00x"),
    ):
        sample(pipeline)


def test_a_run_of_other_steps_is_measured_by_itself(pipeline, sample, tmp_path):
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=2.0))
    sample(pipeline)
    with handle.paused():
        plain = sample(pipeline, steps=12)
    assert torch.equal(sample(pipeline, steps=12), plain)
    assert len(folders_of_plans(tmp_path)) == 2
    sample(pipeline, steps=12)
    assert len(handle.report()["transformer"].schedule) == 12
    # The first plan is there again.
    sample(pipeline)
    assert handle.plans["transformer"].fingerprint.num_inference_steps == 8
    assert len(folders_of_plans(tmp_path)) == 2


def test_a_plan_of_other_steps_beside_the_model_is_passed_over(
    build_pipeline, sample, plan_folder, tmp_path
):
    build_pipeline(tmp_path / "model")
    plan = Plan.from_pretrained(plan_folder / "transformer")
    library = PlanLibrary(tmp_path / "model" / "sensitivity")
    library.add(plan, PlanEntry("two", "transformer", 1 / plan.flop_fraction))
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    plain = sample(loaded, steps=12)
    config = SensitivityConfig(speedup=2.0, cache_dir=tmp_path / "own")
    handle = genaccel.enable(loaded, config)
    assert torch.equal(sample(loaded, steps=12), plain)
    assert handle.plans["transformer"].fingerprint.num_inference_steps == 12


def test_a_bare_model_needs_its_steps(pipeline, sample, tmp_path):
    config = SensitivityConfig(speedup=2.0)
    with pytest.raises(ValueError, match="pass the pipeline, or num_inference_steps="):
        genaccel.enable(pipeline.transformer, config)
    plain = sample(pipeline)
    handle = genaccel.enable(pipeline.transformer, config, num_inference_steps=8)
    assert torch.equal(sample(pipeline), plain)
    replayed = sample(pipeline)
    assert not torch.equal(replayed, plain)
    report = handle.report()["model"]
    assert report.flop_ratio >= 2.0
    assert len(folders_of_plans(tmp_path)) == 1
    handle.disable()
    assert torch.equal(sample(pipeline), plain)


def test_what_has_no_transformer_is_refused_and_left_alone(pipeline):
    config = SensitivityConfig(speedup=2.0)
    unet = diffusers.DDPMPipeline(unet=torch.nn.Linear(1, 1), scheduler=diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match="DDPMPipeline has no transformer and scheduler"):
        genaccel.enable(unet, config)
    with pytest.raises(TypeError, match="must be a SensitivityConfig, got dict"):
        genaccel.enable(pipeline, {"speedup": 2.0})
    handle = genaccel.enable(pipeline, config)
    with pytest.raises(ValueError, match="accelerated already"):
        genaccel.enable(pipeline, config)
    handle.disable()
    handle.disable()
    assert not handle.is_enabled


def run_from(pipeline, begin, steps=12):
    """The loop of an image-to-image pipeline."""
    scheduler, latents = pipeline.scheduler, torch.ones(1, 4, 8, 8)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(begin)
    with torch.inference_mode():
        for timestep in scheduler.timesteps[begin:]:
            noise = pipeline.transformer(
                latents, timestep=timestep[None], class_labels=torch.tensor([1])
            ).sample
            latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
    return latents


def test_a_run_from_an_image_is_measured_over_the_steps_it_has(build_pipeline, tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline = build_pipeline(scheduler=scheduler)
    plain = run_from(pipeline, 6)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=2.0, cache_dir=tmp_path))
    assert torch.equal(run_from(pipeline, 6), plain)
    run_from(pipeline, 6)
    report = handle.report()["transformer"]
    assert report.steps == 6
    assert report.flop_ratio >= 2.0
    plan = handle.plans["transformer"]
    assert plan.compute_mask[:7].all()
    assert 1 / plan.flop_fraction == pytest.approx(report.flop_ratio)
    # A run from noise has measured nothing before, and computes it.
    run_from(pipeline, 0)
    assert handle.report()["transformer"].schedule.startswith("C" * 7)
