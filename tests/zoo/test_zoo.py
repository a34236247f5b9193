# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import diffusers
import pytest
import torch

import genaccel
from genaccel import zoo
from genaccel.errors import UnknownModelError
from genaccel.models.registry import MODEL_VERSIONS
from genaccel.models.restoration import Restoration


def entry(name):
    return json.loads((zoo.path(name).parent / "models.json").read_text())[name]


def test_every_model_has_type_version_parts_and_a_card():
    assert "photo-codec-high" in zoo.names()
    for name in zoo.names():
        is_pipeline = (zoo.path(name) / "model_index.json").is_file()
        file = "genaccel.json" if is_pipeline else "config.json"
        config = json.loads((zoo.path(name) / file).read_text())
        assert MODEL_VERSIONS[config["type"]] >= config["version"] >= 1
        folders = {p.parent.name for p in zoo.path(name).glob("*/config.json")}
        assert folders < set(config["parts"])
        # Its parts are what it was saved with.
        assert zoo.resolve(name, entry(name)["kind"]).folder == zoo.path(name)
        for word in ("Data", "Command", "Seconds", "Figures", "Licence"):
            assert f"## {word}" in zoo.card(name), f"card of {name} has no section {word}"


def test_no_model_tells_where_it_was_made():
    for file in zoo.path("photo-codec-high").parent.rglob("*.json"):
        assert "_name_or_path" not in file.read_text(), file


def test_codec_numbers_are_unique_bytes_and_lead_back():
    numbers = [zoo.codec_number(name) for name in zoo.names("codec")]
    assert len(set(numbers)) == len(numbers)
    for name, number in zip(zoo.names("codec"), numbers, strict=True):
        assert 1 <= number <= 255
        assert zoo.codec_name(number) == name
    assert zoo.codec_name(255) is None


def test_aliases_stand_for_one_model_and_are_no_names():
    assert zoo.canonical_name("photo-codec-small", "codec") == "photo-codec-high"
    found = zoo.resolve("photo-codec-small", "codec")
    assert (found.name, found.codec_number) == ("photo-codec-high", 1)
    assert zoo.path("photo-codec-small") == zoo.path("photo-codec-high")
    assert zoo.codec_number("photo-codec-small") == 1
    assert zoo.card("photo-codec-small").startswith("# photo-codec-high")
    aliases = [alias for name in zoo.names() for alias in entry(name).get("aliases", [])]
    assert len({*aliases, *zoo.names()}) == len(aliases) + len(zoo.names())


def test_resolving_folders_and_other_kinds(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(zoo.path("photo-restoration"), folder)
    found = zoo.resolve(folder, "restoration")
    assert (found.name, found.folder, found.codec_number) == (str(folder), folder, 0)
    with pytest.raises(UnknownModelError, match="of type 'restoration', not 'autoencoder'"):
        zoo.resolve(folder, "codec")
    with pytest.raises(UnknownModelError, match="is no codec: it has photo-codec-high"):
        zoo.resolve("photo-restoration", "codec")
    with pytest.raises(UnknownModelError, match="small of the zoo is no pipeline: it has land"):
        zoo.resolve("photo-codec-small", "pipeline")
    with pytest.raises(UnknownModelError, match=r"model_index\.json is missing"):
        zoo.resolve(tmp_path, "pipeline")


@pytest.mark.parametrize(
    ("kind", "name", "other", "part"),
    [
        ("codec", "photo-codec-high", "photo-codec-low", "entropy-int8/model.safetensors"),
        ("codec", "photo-codec-high", "photo-codec-medium", "model.safetensors"),
        ("pipeline", "landscapes-dit", None, "vae/config.json"),
    ],
)
def test_parts_of_other_models_are_refused(tmp_path, kind, name, other, part):
    folder = tmp_path / name
    shutil.copytree(zoo.path(name), folder)
    zoo.resolve(folder, kind)
    if other is None:
        (folder / part).write_text((folder / part).read_text() + " ")
    else:
        shutil.copy(zoo.path(other) / part, folder / part)
    with pytest.raises(UnknownModelError, match="parts of different models do not go together"):
        zoo.resolve(folder, kind)


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
    with pytest.raises(UnknownModelError, match="photo-codec-high"):
        call("photo-codec-hig")


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
