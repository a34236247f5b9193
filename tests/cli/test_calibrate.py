# SPDX-License-Identifier: Apache-2.0
import functools

import pytest
import torch
from diffusers import DiTPipeline

import genaccel
from genaccel import SensitivityConfig
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.plans.plan_library import PlanLibrary


@pytest.fixture
def calibrate(run, pipeline_folder, tmp_path):
    def invoke(*options):
        common = ["--out", tmp_path / "plans", "--steps", 8, "--generations", 2]
        return run("calibrate", pipeline_folder, *common, *options)

    return invoke


def test_one_measurement_makes_several_plans(calibrate, tmp_path):
    result = calibrate("--class-labels", "1,2", "--speedup", 2, "--speedup", 3, "--mask")
    assert result.exit_code == 0, result.output
    library = PlanLibrary(tmp_path / "plans")
    assert [e.folder for e in library.entries] == ["speedup-2-steps-8", "speedup-3-steps-8"]
    for entry, speedup in zip(library.entries, (2, 3), strict=True):
        assert entry.flop_ratio >= 0.98 * speedup
        plan = library.load(entry)
        mask = plan.steps_computation_mask()
        assert f"steps_computation_mask = {mask}" in result.stdout
        assert f"{speedup}x  {''.join('fC'[c] for c in mask)}\n" in result.stdout
        assert f"{sum(mask)} of 8" in result.stdout
        assert f"{plan.expected_error:.4g}" in result.stdout
    assert (tmp_path / "plans" / "calibration.safetensors").is_file()


def test_plans_beside_the_model_are_found_by_whoever_loads_it(calibrate, pipeline_folder, tmp_path):
    result = calibrate("--class-labels", "1", "--beside-model")
    assert result.exit_code == 0, result.output
    pipeline = DiTPipeline.from_pretrained(pipeline_folder)
    handle = genaccel.enable(pipeline, SensitivityConfig(speedup=2.0))
    pipeline(class_labels=[3], num_inference_steps=8)
    assert handle.report()["transformer"].flop_ratio >= 1.96  # in the first run
    assert not (tmp_path / "cache").exists()
    beside = PlanLibrary(pipeline_folder / "sensitivity").entries
    assert beside == PlanLibrary(tmp_path / "plans").entries


def test_an_interrupted_measurement_is_resumed(calibrate, tmp_path, monkeypatch):
    plain, count = DiTPipeline.__call__, []

    @functools.wraps(plain)  # its signature is asked for
    def call(self, **arguments):
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return plain(self, **arguments)

    monkeypatch.setattr(DiTPipeline, "__call__", call)
    result = calibrate("--class-labels", "1,2")
    assert result.exit_code == 130, result.output
    assert result.stderr.endswith("interrupted\n")
    result = calibrate("--class-labels", "1,2")
    assert result.exit_code == 0, result.output
    assert len(count) == 3
    result = calibrate("--class-labels", "3,2")
    assert result.exit_code == 2
    assert "was measured with other calls" in " ".join(result.stderr.replace("│", " ").split())


def test_what_is_out_of_reach_does_not_spoil_the_rest(calibrate, tmp_path):
    result = calibrate("--class-labels", "1", "--speedup", 2, "--speedup", 50)
    assert result.exit_code == 6
    assert result.stderr.splitlines()[-1].startswith("error: a speed-up of 50 is out of reach")
    assert len(PlanLibrary(tmp_path / "plans").entries) == 1
    result = calibrate("--class-labels", "1", "--speedup", 50)
    assert result.exit_code == 1
    assert result.stdout == ""


def test_options_of_the_plan(calibrate, tmp_path):
    result = calibrate(
        *["--class-labels", "1", "--max-interval", 3, "--warmup-steps", 2, "--weigh-steps"],
        *["--speedup", 1.5],
        *["--guidance", 1.5, "--seed", 7, "--batch-size", 2],
    )
    assert result.exit_code == 0, result.output
    library = PlanLibrary(tmp_path / "plans")
    plan = library.load(library.entries[0])
    assert plan.compute_mask[:2].all()
    assert library.entries[0].config["planner"]["weigh_steps"] is True
    positions = [i for i, c in enumerate(plan.steps_computation_mask()) if c]
    assert max(b - a for a, b in zip(positions, [*positions[1:], 8], strict=True)) <= 3


def test_the_checkpoint_is_read_as_it_was_written(calibrate, tmp_path):
    assert calibrate("--class-labels", "1").exit_code == 0
    first = Plan.from_pretrained(tmp_path / "plans" / "speedup-2-steps-8")
    assert calibrate("--class-labels", "1").exit_code == 0
    again = Plan.from_pretrained(tmp_path / "plans" / "speedup-2-steps-8")
    assert (first.compute_mask == again.compute_mask).all()
    assert first.expected_error == again.expected_error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "DiTPipeline draws classes: name some with --class-labels 1,2,3"),
        (["--class-labels", "cat"], "--class-labels must be numbers such as 1,2,3, got 'cat'"),
        (["--class-labels", "1000"], "the model knows 0 to 999"),
        (["--class-labels", "1", "--speedup", "0.5"], "--speedup must be above 1, got 0.5"),
        (["--prompts", "none.txt"], "--prompts none.txt can't be read"),
        (
            ["--class-labels", "1", "--pipeline-arguments", '{"seed": 1}'],
            "seed belongs into --seed",
        ),
    ],
)
def test_wrong_usage_is_told_before_anything_is_measured(calibrate, options, message, tmp_path):
    result = calibrate(*options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "plans").exists()


def test_the_model_needs_a_folder_for_plans_beside_it(run, tmp_path):
    result = run("calibrate", "owner/name", "--out", tmp_path, "--beside-model")
    assert result.exit_code == 2
    assert "--beside-model needs a model in a folder" in " ".join(
        result.stderr.replace("│", " ").split()
    )
    assert torch.is_inference_mode_enabled() is False


def test_any_field_of_the_config_can_be_set(calibrate, tmp_path):
    pruning = '{"pruning_share": 0.2, "planner": {"forecasters": ["reuse"]}}'
    result = calibrate("--class-labels", "1", "--speedup", 1.7, "--config", pruning)
    assert result.exit_code == 0, result.output
    (entry,) = PlanLibrary(tmp_path / "plans").entries
    assert entry.config["pruning_share"] == 0.2
    assert entry.config["planner"]["forecasters"] == ["reuse"]
    plan = PlanLibrary(tmp_path / "plans").load(entry)
    assert plan.partial_mask.any()
    letters = "".join(
        "C" if c else "p" if p else "f"
        for c, p in zip(plan.compute_mask[:, 0], plan.partial_mask[:, 0], strict=True)
    )
    assert f"1.7x  {letters}\n" in result.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "--config must be a JSON object"),
        ('{"prune": 1}', "unknown keys ['prune']"),
        ('{"metric": "l9"}', "metric must be one of cosine, l1, l2"),
        ('{"planner": {"prune": 1}}', "unknown keys ['prune']"),
        ('{"speedup": 3}', "--config names speedup, which has an option of its own"),
        ('{"pruning_share": "a"}', "--config has a value of the wrong type"),
    ],
)
def test_a_wrong_config_is_told(calibrate, text, message):
    result = calibrate("--class-labels", "1", "--config", text)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
