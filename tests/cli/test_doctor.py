# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline, UNet2DModel

import genaccel
from genaccel import SensitivityConfig
from genaccel.models.registry import record_parts


def test_says_what_was_bound_and_what_it_is_worth(run, pipeline_folder):
    result = run("doctor", pipeline_folder)
    assert result.exit_code == 0, result.output
    assert "bound     transformer_blocks: 4 x BasicTransformerBlock" in result.stdout
    assert "covered   9" in result.stdout
    assert "a run of 50 steps can be " in result.stdout
    assert "each kept step takes " in result.stdout
    assert "no plan for 2x and 50 steps is kept: the first run will be" in result.stdout
    assert "no effect here" not in result.stdout
    result = run("doctor", pipeline_folder, "--config", '{"granularity": "segment"}')
    assert "no effect here: shared_schedule" in result.stdout


def test_json_has_the_figures(run, pipeline_folder):
    result = run("doctor", pipeline_folder, "--json", "--steps", 8)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["pipeline"] == "DiTPipeline"
    found = report["models"]["transformer"]
    assert found["covered"] > 0.8
    assert found["best_flop_ratio"] == pytest.approx(1 / (1 - found["covered"]))
    assert found["most"] < 8
    # Two halves of the guidance, 144 tokens of 16 channels, in float32.
    assert found["bytes_per_kept_step"] == 2 * 144 * 16 * 4
    assert found["stored_plan"] is None


def test_a_pipeline_may_share_its_autoencoder_but_not_have_anothers(
    run, pipeline_folder, saved_pipeline
):
    vae, beside = pipeline_folder / "vae", pipeline_folder.parent / "beside"
    shutil.copytree(saved_pipeline, beside)
    shutil.rmtree(vae)
    record_parts(pipeline_folder, shared={"vae": beside / "vae"})
    assert run("doctor", pipeline_folder).exit_code == 0
    shutil.copytree(saved_pipeline / "vae", vae)
    record_parts(pipeline_folder)
    (vae / "config.json").write_text((vae / "config.json").read_text() + "\n")
    result = run("doctor", pipeline_folder)
    assert result.exit_code == 2
    assert "parts of different models do not go together" in " ".join(
        result.stderr.replace("│", " ").split()
    )


def test_a_plan_of_an_earlier_run_is_found(run, pipeline_folder):
    pipeline = DiTPipeline.from_pretrained(pipeline_folder)
    with genaccel.enable(pipeline, SensitivityConfig(speedup=2.0)):
        pipeline(class_labels=[1], num_inference_steps=8)
    result = run("doctor", pipeline_folder, "--steps", 8)
    assert "a plan for 2x is found in " in result.stdout
    assert "cache" in result.stdout
    assert (
        "no plan for 3x and 8 steps"
        in run("doctor", pipeline_folder, "--steps", 8, "--speedup", 3).stdout
    )


def test_without_a_run_only_the_blocks_are_known(run, pipeline_folder, monkeypatch):
    monkeypatch.setattr(DiTPipeline, "__call__", None)
    result = run("doctor", pipeline_folder, "--no-run", "--steps", 8)
    assert result.exit_code == 0, result.output
    assert "The segments are learned from the first call." in result.stdout
    assert "covered" not in result.stdout


def test_a_speedup_out_of_reach_is_said(run, pipeline_folder):
    result = run("doctor", pipeline_folder, "--speedup", 40)
    assert result.exit_code == 0
    assert "40x is out of reach: runs get the most there is" in result.stdout


def test_a_scheduler_that_draws_noise_has_no_weights_of_steps(run, pipeline_folder):
    pipeline = DiTPipeline.from_pretrained(pipeline_folder)
    pipeline.scheduler = DDPMScheduler()
    pipeline.save_pretrained(pipeline_folder)
    result = run("doctor", pipeline_folder)
    assert "weigh_steps: DDPMScheduler is not linear, or draws noise" in result.stdout


def test_a_pipeline_without_a_transformer_fails_in_one_sentence(run, tmp_path):
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    DDPMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path / "unet")
    result = run("doctor", tmp_path / "unet")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: DDPMPipeline has no transformer and scheduler")
    assert len(result.stderr.splitlines()) == 1


def test_a_call_that_fails_is_told(run, pipeline_folder, monkeypatch):
    def fail(self, class_labels, num_inference_steps=50, generator=None):
        raise RuntimeError("no image was given\nat all")

    monkeypatch.setattr(DiTPipeline, "__call__", fail)
    result = run("doctor", pipeline_folder)
    assert result.exit_code == 1
    assert "a call of 2 steps failed (no image was given); give what it needs" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "neither a folder nor one of landscapes-dit"),
        (["."], "no pipeline folder: model_index.json is missing"),
        (["photo-codec-high"], "of the zoo is no pipeline"),
        (["pipeline", "--speedup", "1"], "speedup must be above 1"),
        (["pipeline", "--pipeline-arguments", "{"], "--pipeline-arguments is no JSON"),
        (["pipeline", "--pipeline-arguments", "[1]"], "must be a JSON object"),
        (["pipeline", "--arguments", '{"depth": 1}'], "takes no argument 'depth'"),
    ],
)
def test_wrong_usage_is_told(run, pipeline_folder, tmp_path, arguments, message):
    result = run("doctor", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_a_damaged_pipeline_is_told_in_one_line(run, pipeline_folder):
    (pipeline_folder / "transformer" / "config.json").write_text("{")
    result = run("doctor", pipeline_folder)
    assert result.exit_code == 2
    assert "can't be loaded as a pipeline" in " ".join(result.stderr.replace("│", " ").split())


def test_weights_may_be_loaded_in_half_precision(run, pipeline_folder):
    result = run("doctor", pipeline_folder, "--json", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["models"]["transformer"]
    assert found["bytes_per_kept_step"] == 2 * 144 * 16 * torch.bfloat16.itemsize
