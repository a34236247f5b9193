# SPDX-License-Identifier: Apache-2.0
"""A real pipeline class at tiny size, saved to disk and loaded by the command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from typer.testing import CliRunner

from genaccel.cli import app


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,  # the pipeline takes number 1000 for "no class"
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    pipeline = DiTPipeline(transformer=transformer, vae=vae, scheduler=DDIMScheduler())
    folder = tmp_path_factory.mktemp("pipeline") / "dit"
    pipeline.save_pretrained(folder)
    return folder


def _run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["eval", "fid", *map(str, arguments)])
    return result.exit_code, result.stdout, " ".join(result.stderr.replace("│", " ").split())


def test_a_pipeline_and_a_list_of_prompts(
    tiny_pipeline: Path,
    picture_folder: Callable[..., Path],
    inception_weights: Path,
    tmp_path: Path,
) -> None:
    real = picture_folder("real", 5, seed=0)
    labels = tmp_path / "labels.txt"
    labels.write_text("1\n3\n\n5\n7\n")
    options = [real, "--pipeline", tiny_pipeline, "--prompts", labels]
    options += ["--prompt-argument", "class_labels", "--weights", inception_weights]
    options += ["--dimensions", 64, "--json"]
    steps = ["--pipeline-arguments", '{"num_inference_steps": 1}']
    values = []
    for seed in (0, 0, 1):
        code, stdout, stderr = _run(*options, *steps, "--seed", seed)
        assert code == 0, stderr
        record = json.loads(stdout)
        assert record["num_images"] == [5, 4]
        assert record["sets"][1] == str(tiny_pipeline)
        values.append(record["value"])
    assert values[0] == values[1] != values[2]

    code, _, stderr = _run(*options, "--pipeline-arguments", "{steps: 2}")
    assert code == 2
    assert "--pipeline-arguments is no JSON object" in stderr
    code, _, stderr = _run(*options[:3], "--weights", inception_weights)
    assert code == 2
    assert "--pipeline needs --prompts FILE" in stderr
    labels.write_text("\n")
    code, _, stderr = _run(*options)
    assert code == 2
    assert "holds no prompt" in stderr
