# SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import nn

from genaccel.files import atomic
from genaccel.models import registry
from genaccel.models.registry import (
    check_model_folder,
    read_model_folder,
    record_parts,
    replaced_folder,
    shared_components,
    write_model_folder,
)


def write(folder, width=2, model_type="autoencoder"):
    torch.manual_seed(width)
    model = nn.Linear(width, width)
    write_model_folder(folder, model_type, {"width": width}, model, dtype=torch.float32)
    return model


def read(folder, model_type="autoencoder"):
    return read_model_folder(folder, model_type, lambda config: nn.Linear(*2 * [config["width"]]))


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


@pytest.fixture
def folder(tmp_path):
    """A model with a part, both listed, and a card."""
    path = tmp_path / "model"
    write(path)
    write(path / "entropy", 3, "entropy-model")
    record_parts(path)
    (path / "README.md").write_text("card")
    return path


@pytest.fixture
def make_pipeline(tmp_path):
    """Writes a tiny pipeline of a seed, its parts listed, to a folder."""

    def make(name, seed):
        torch.manual_seed(seed)
        geometry = {"sample_size": 4, "num_layers": 1, "num_attention_heads": 1}
        pipeline = DiTPipeline(
            transformer=DiTTransformer2DModel(**geometry, attention_head_dim=8, norm_num_groups=4),
            vae=AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
            scheduler=DDIMScheduler(),
        )
        with replaced_folder(tmp_path / name) as fresh:
            pipeline.save_pretrained(fresh)
            record_parts(fresh)
        return tmp_path / name

    return make


def test_a_network_is_read_as_it_was_written_with_its_type_and_version(tmp_path):
    model = write(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config == {"type": "autoencoder", "version": 1, "width": 2}
    assert torch.equal(read(tmp_path / "model").weight, model.weight)
    assert not read(tmp_path / "model").training


def test_folders_of_former_versions_have_none_of_it_and_are_read(folder):
    for file in (folder / "config.json", folder / "entropy" / "config.json"):
        file.write_text(json.dumps({"width": json.loads(file.read_text())["width"]}))
    assert read(folder).in_features == 2
    check_model_folder(folder, "autoencoder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "restoration"}, "of type 'restoration', not 'autoencoder'"),
        ({"version": 2}, "version 2 of autoencoder, and this genaccel reads up to 1"),
        ({"version": "1"}, "version '1' of autoencoder"),
        ({"version": True}, "version True of autoencoder"),
        ({"parts": ["model.safetensors"]}, "must list parts as objects with a sha256"),
        ({"parts": {"model.safetensors": "0123"}}, "must list parts as objects with a sha256"),
        ({"parts": {"entropy": {"sha256": "0", "path": 3}}}, "must list parts as objects"),
        ({"width": 3}, r"do not fit its config\.json"),
    ],
)
def test_another_type_version_or_configuration_is_refused(folder, changes, message):
    edit(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_folders_that_hold_no_model(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"no autoencoder folder: config\.json is missing"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no pipeline folder: model_index\.json is"):
        check_model_folder(folder, "pipeline")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        read(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        read(folder)
    (folder / "config.json").write_text('{"width"')
    with pytest.raises(ValueError, match=r"model/config\.json is damaged: Expecting"):
        read(folder)


def test_parts_of_different_models_are_refused_in_one_sentence(tmp_path, folder):
    check_model_folder(folder, "autoencoder")
    write(tmp_path / "other", 4)
    weights = tmp_path / "other" / "model.safetensors"
    shutil.copy(weights, folder)
    with pytest.raises(ValueError, match=r"model\.safetensors is not the .* do not go together"):
        check_model_folder(folder, "autoencoder")
    record_parts(folder)
    check_model_folder(folder, "autoencoder")
    write(folder / "entropy", 5, "entropy-model")
    with pytest.raises(ValueError, match="entropy is not the entropy that this model was saved"):
        check_model_folder(folder, "autoencoder")
    shutil.rmtree(folder / "entropy")
    with pytest.raises(FileNotFoundError, match="lacks its part entropy"):
        check_model_folder(folder, "autoencoder")


def test_a_model_is_replaced_with_its_parts_and_all_else_stays(folder):
    (folder / "plans").mkdir()
    (folder / "plans" / "a.txt").write_text("plan")
    folder.chmod(0o2750)
    write(folder, 4)
    assert set(files_of(folder)) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "plans/a.txt",
    }
    assert read(folder).in_features == 4
    assert folder.stat().st_mode & 0o7777 == 0o2750
    check_model_folder(folder, "autoencoder")


def test_of_a_pipeline_its_components_are_replaced_and_no_other_folder(make_pipeline):
    folder = make_pipeline("pipeline", 0)
    before = files_of(folder)
    (folder / "lora").mkdir()
    (folder / "lora" / "adapter_config.json").write_text("{}")
    make_pipeline("pipeline", 1)
    assert set(files_of(folder)) == {*before, "lora/adapter_config.json"}
    with replaced_folder(folder) as fresh:
        write(fresh)
    assert set(files_of(folder)) == {
        "config.json",
        "model.safetensors",
        "lora/adapter_config.json",
    }


def test_files_without_a_model_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path)
    assert set(files_of(tmp_path)) == {"config.json", "model.safetensors", "notes.txt"}


def test_after_an_error_all_is_as_it_was(folder):
    before = files_of(folder)
    with pytest.raises(KeyError), replaced_folder(folder) as fresh:  # noqa: PT012
        write(fresh, 7)
        raise KeyError
    assert files_of(folder) == before
    assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize(
    ("module", "failing"),
    [(atomic, "sync_tree"), (registry, "_keep_other_files"), (atomic, "_exchange")],
)
def test_a_failure_while_replacing_leaves_the_old_model(folder, monkeypatch, module, failing):
    def fail(*_):
        raise OSError("no space left")

    before = files_of(folder)
    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(OSError, match="no space"):
        write(folder, 7)
    assert files_of(folder) == before
    assert os.listdir(folder.parent) == [folder.name]


def test_a_new_folder_that_cannot_take_the_place_gives_it_back(folder, monkeypatch):
    rename, before = os.rename, files_of(folder)

    def refuse(source, target):
        if str(source).endswith(".partial"):
            raise OSError("refused")
        rename(source, target)

    monkeypatch.setattr(registry.os, "rename", refuse)
    with pytest.raises(OSError, match="refused"):
        write(folder, 7)
    assert files_of(folder) == before


def test_a_killed_process_leaves_a_whole_model(folder):
    before = files_of(folder)
    code = """
import os, signal, sys
from genaccel.models.registry import replaced_folder
with replaced_folder(sys.argv[1]) as fresh:
    (fresh / "config.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, folder], check=False)
    assert done.returncode == -9
    assert files_of(folder) == before
    check_model_folder(folder, "autoencoder")


def test_another_pipelines_autoencoder_is_refused(make_pipeline):
    first, second = make_pipeline("first", 0), make_pipeline("second", 1)
    assert json.loads((first / "genaccel.json").read_text())["type"] == "pipeline"
    check_model_folder(first, "pipeline")
    shutil.copytree(second / "vae", first / "vae", dirs_exist_ok=True)
    with pytest.raises(ValueError, match="vae is not the vae that this model was saved with"):
        check_model_folder(first, "pipeline")
    (first / "genaccel.json").unlink()  # as any pipeline of diffusers
    check_model_folder(first, "pipeline")
    assert shared_components(first) == {}


def test_a_shared_autoencoder_is_loaded_from_the_other_model(make_pipeline, tmp_path):
    first, second = make_pipeline("first", 0), make_pipeline("second", 1)
    shutil.rmtree(second / "vae")
    with pytest.raises(FileNotFoundError, match="lacks its part vae"):
        record_parts(second)
    record_parts(second, shared={"vae": first / "vae"})
    assert (
        json.loads((second / "genaccel.json").read_text())["parts"]["vae"]["path"] == "../first/vae"
    )
    check_model_folder(second, "pipeline")
    loaded = DiTPipeline.from_pretrained(second, **shared_components(second))
    ours = DiTPipeline.from_pretrained(first).vae.state_dict()
    assert all(torch.equal(ours[name], t) for name, t in loaded.vae.state_dict().items())
    edit(first / "vae" / "config.json", scaling_factor=1.0)
    with pytest.raises(ValueError, match="vae is not the vae"):
        check_model_folder(second, "pipeline")
    shutil.rmtree(tmp_path / "first")
    with pytest.raises(FileNotFoundError, match="lacks its part vae"):
        shared_components(second)


def test_components_of_other_libraries_are_not_shared(make_pipeline):
    first, second = make_pipeline("first", 0), make_pipeline("second", 1)
    record_parts(second, shared={"vae": first / "vae"})
    edit(second / "model_index.json", vae=["os", "AutoencoderKL"])
    with pytest.raises(ValueError, match="vae is of os, which shares no components"):
        shared_components(second)


def test_it_is_imported_without_torch():
    code = "import sys, genaccel.zoo; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
