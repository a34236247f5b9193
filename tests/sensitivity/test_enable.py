# SPDX-License-Identifier: Apache-2.0
"""``genaccel.enable`` on a small pipeline, as a user has it."""

import dataclasses
import logging

import diffusers
import pytest
import torch

import genaccel
from genaccel import SensitivityConfig
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary


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


def test_a_speedup_out_of_reach_gets_the_best_plan_below_it_and_the_report_says_so(
    pipeline, sample
):
    plain = sample(pipeline)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=20.0))
    assert torch.equal(sample(pipeline), plain)
    sample(pipeline)
    report = handle.report()["transformer"]
    # The first step, and one of those that max_interval wants.
    assert report.schedule.count("C") == 2
    assert report.target == "20x fewer FLOPs"
    best = f"20x is out of reach here: this is the best plan below it, {report.flop_ratio:.2f}x"
    assert best in report.notes


def test_a_single_step_cannot_be_faster_and_the_report_says_so(pipeline, sample):
    plain = sample(pipeline, steps=1)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=2.0))
    for _ in range(2):
        assert torch.equal(sample(pipeline, steps=1), plain)
    report = handle.report()["transformer"]
    assert report.notes == ("a run of a single step has nothing to skip",)
    assert report.plan == "none: computed in full"


def test_max_interval_of_one_computes_every_step_and_says_so(pipeline, sample):
    plain = sample(pipeline)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=1.5, max_interval=1))
    for _ in range(2):
        assert torch.equal(sample(pipeline), plain)
        (note,) = handle.report()["transformer"].notes
        assert note == "no step of this run can be skipped: it has too few, or max_interval is 1"


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


def test_a_plan_for_another_model_is_not_used(build_pipeline, sample, plan_folder, caplog):
    other = build_pipeline(layers=3)
    plain = sample(other)
    handle = genaccel.enable(other, SensitivityConfig(plan=plan_folder))
    for _ in range(2):
        assert torch.equal(sample(other), plain)
    said = "of another configuration than this model's."
    assert caplog.text.count(said) == 1
    assert any(said in note for note in handle.report()["transformer"].notes)


def test_a_plan_for_another_class_of_model_is_refused(build_pipeline, plan_folder):
    plan = Plan.from_pretrained(plan_folder / "transformer")
    other = dataclasses.replace(plan.fingerprint, model_class="FluxTransformer2DModel")
    dataclasses.replace(plan, fingerprint=other).save_pretrained(plan_folder / "transformer")
    with pytest.raises(ValueError, match=r"has plans for FluxTransformer2DModel with DDIM.* this is DiT"):  # fmt: skip
        genaccel.enable(build_pipeline(), SensitivityConfig(plan=plan_folder))


def test_a_plan_for_another_scheduler_is_refused(build_pipeline, plan_folder):
    other = build_pipeline(scheduler=diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match=r"has plans for .* with DDIMScheduler, this is .* with DDPMScheduler"):  # fmt: skip
        genaccel.enable(other, SensitivityConfig(plan=plan_folder))
    assert not hasattr(other.transformer, "_diffusers_hook")
    assert type(other) is diffusers.DiTPipeline


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
    found = handle.models["transformer"].director.source.stored_plan(plan.fingerprint)
    assert found.folder == tmp_path / "model" / "sensitivity" / "two"
    assert handle.report()["transformer"].plan.startswith("beside the model (two), 2.")


@pytest.mark.parametrize("target", [{"min_psnr": 30.0}, {"max_lpips": 0.05}])
def test_a_quality_without_measured_plans_says_what_to_do(pipeline, sample, target):
    plain = sample(pipeline)
    with pytest.raises(ValueError, match=r"`genaccel tune`\) and name their folder in plan="):
        genaccel.enable(pipeline, SensitivityConfig(**target))
    assert not genaccel.is_enabled(pipeline)
    assert torch.equal(sample(pipeline), plain)


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
    with pytest.raises(ValueError, match=r"no plan that meets the target; it has 1.50x, 3.00x"):
        genaccel.enable(pipeline, config)


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
    with pytest.raises(
        TypeError, match="must be a SensitivityConfig or SkipDecodingConfig, got dict"
    ):
        genaccel.enable(pipeline, {"speedup": 2.0})
    handle = genaccel.enable(pipeline, config)
    with pytest.raises(ValueError, match="accelerated already"):
        genaccel.enable(pipeline, config)
    handle.disable()
    handle.disable()
    assert not handle.is_enabled


class FromNoiseOrImage(diffusers.DiTPipeline):
    """With the loop of an image-to-image pipeline."""

    def __call__(self, begin, steps=12):
        scheduler, latents = self.scheduler, torch.ones(1, 4, 8, 8)
        scheduler.set_timesteps(steps)
        scheduler.set_begin_index(begin)
        with torch.inference_mode():
            for timestep in scheduler.timesteps[begin:]:
                noise = self.transformer(
                    latents, timestep=timestep[None], class_labels=torch.tensor([1])
                ).sample
                latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
        return latents


def test_a_run_from_an_image_is_measured_over_the_steps_it_has(build_pipeline, tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline = FromNoiseOrImage(**build_pipeline(scheduler=scheduler).components)
    plain = pipeline(6)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=2.0, cache_dir=tmp_path))
    assert torch.equal(pipeline(6), plain)
    pipeline(6)
    report = handle.report()["transformer"]
    assert report.steps == report.num_steps == 6
    assert report.flop_ratio >= 1.96
    plan = handle.plans["transformer"]
    assert (plan.fingerprint.num_inference_steps, plan.fingerprint.start_step) == (6, 6)
    assert 1 / plan.flop_fraction == pytest.approx(report.flop_ratio)
    # A run from noise has measured nothing yet, and computes it.
    with handle.paused():
        plain = pipeline(0)
    assert torch.equal(pipeline(0), plain)
    assert handle.report()["transformer"].schedule == "C" * 12
    pipeline(0)
    assert handle.report()["transformer"].flop_ratio >= 1.96


def test_a_run_of_as_many_steps_elsewhere_in_the_schedule_is_another_run(build_pipeline, tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline = FromNoiseOrImage(**build_pipeline(scheduler=scheduler).components)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=2.0, cache_dir=tmp_path))
    pipeline(6, 12)
    pipeline(0, 6)
    assert handle.report()["transformer"].schedule == "C" * 6
    assert len(list(tmp_path.iterdir())) == 2
