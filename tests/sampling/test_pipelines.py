# SPDX-License-Identifier: Apache-2.0
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline

from genaccel import zoo
from genaccel.sampling.pipelines import find_pipeline, load_pipeline

MODULE = """
from diffusers import DiffusionPipeline
def make():
    return DiffusionPipeline.from_pretrained({folder!r})
def fails():
    raise RuntimeError("no weights\\nat all")
"""


@pytest.fixture
def folder(build_pipeline, tmp_path):
    build_pipeline(tmp_path / "pipeline")
    return str(tmp_path / "pipeline")


def test_a_folder_becomes_a_pipeline_of_its_class_and_dtype(folder):
    plain, half = load_pipeline(folder), load_pipeline(folder, dtype="bfloat16")
    assert type(plain) is type(load_pipeline(folder, pipeline_class=DiTPipeline)) is DiTPipeline
    assert plain.transformer.dtype == torch.float32
    assert half.transformer.dtype == half.vae.dtype == torch.bfloat16
    assert plain._progress_bar_config == {"disable": True}


def test_a_function_makes_a_pipeline(folder, tmp_path):
    script = tmp_path / "own.py"
    script.write_text(MODULE.format(folder=folder))
    path = list(sys.path)
    made = load_pipeline(f"{script}:make", dtype=torch.bfloat16)
    assert isinstance(made, DiTPipeline)
    assert made.transformer.dtype == torch.bfloat16
    assert sys.path == path
    with pytest.raises(
        ValueError, match=r"own\.py:fails can't be loaded as a pipeline: no weights$"
    ):
        load_pipeline(f"{script}:fails")
    with pytest.raises(ValueError, match="has no 'other'"):
        load_pipeline(f"{script}:other")


def test_what_a_user_may_name(folder):
    assert find_pipeline(folder) == folder
    assert find_pipeline("landscapes-dit") == str(zoo.path("landscapes-dit"))
    assert find_pipeline("owner/name") == "owner/name"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no model 'nowhere': it is neither a folder nor one of landscapes-dit"),
        (str(Path(__file__).parent), "is no pipeline folder: model_index.json is missing"),
        ("photo-codec-small", "of the zoo is no pipeline"),
        ("./owner/name", "it is neither a folder nor one of"),
    ],
)
def test_what_is_no_pipeline_is_told(source, message):
    with pytest.raises(ValueError, match=message):
        load_pipeline(source)
