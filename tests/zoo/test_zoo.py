# SPDX-License-Identifier: Apache-2.0
import json

import diffusers
import pytest
import torch

import genaccel
from genaccel import zoo
from genaccel.errors import UnknownModelError
from genaccel.models.restoration import Restoration


def test_every_model_has_its_files_and_a_card():
    assert "photo-codec-small" in zoo.names()
    for name in zoo.names():
        config = "model_index.json" if name in zoo.names("pipeline") else "config.json"
        assert json.loads((zoo.path(name) / config).read_text())
        for word in ("Data", "Command", "Seconds", "Figures", "Licence"):
            assert f"## {word}" in zoo.card(name), f"card of {name} has no section {word}"


def test_codec_numbers_are_unique_bytes_and_lead_back():
    numbers = [zoo.codec_number(name) for name in zoo.names("codec")]
    assert len(set(numbers)) == len(numbers)
    for name, number in zip(zoo.names("codec"), numbers, strict=True):
        assert 1 <= number <= 255
        assert zoo.codec_name(number) == name
    assert zoo.codec_name(255) is None


def test_codecs_are_within_40_megabytes_together():
    folders = [zoo.path(name) for name in zoo.names("codec")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40_000_000


def test_each_quality_has_a_codec_and_better_ones_have_higher_rates():
    names = [zoo.codec_of_quality(quality) for quality in ("high", "medium", "low")]
    assert names == zoo.codecs_by_rate()
    with pytest.raises(UnknownModelError, match="'best' quality"):
        zoo.codec_of_quality("best")


@pytest.mark.parametrize("call", [zoo.path, zoo.card, zoo.codec_number])
def test_unknown_names_list_the_known_ones(call):
    with pytest.raises(UnknownModelError, match="photo-codec-small"):
        call("photo-codec-smal")


def test_restorations_load_and_are_small():
    assert zoo.names("restoration") == ["photo-restoration"]
    folder = zoo.path("photo-restoration")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    model = Restoration.from_pretrained(folder)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 2_000_000
    with torch.inference_mode():
        picture = model(torch.full((1, 3, 9, 7), 0.5), torch.tensor([30.0]), scale=2, size=(17, 14))
    assert picture.shape == (1, 3, 17, 14)
    # A grey base says nothing but that the picture is grey.
    assert (picture - 0.5).abs().max() < 0.1


def test_landscapes_dit_runs_on_the_plan_beside_it(tmp_path):
    folder = zoo.path("landscapes-dit")
    assert sum(f.stat().st_size for f in folder.rglob("*.safetensors")) <= 40_000_000
    pipe = diffusers.DiTPipeline.from_pretrained(folder).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    with genaccel.enable(
        pipe, genaccel.SensitivityConfig(speedup=2.0, cache_dir=tmp_path)
    ) as handle:
        pipe(class_labels=[pipe.labels["dune"]], num_inference_steps=50, output_type="np")
        assert handle.report()["transformer"].flop_ratio >= 1.96
    assert not list(tmp_path.iterdir())
