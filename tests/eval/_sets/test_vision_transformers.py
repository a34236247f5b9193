# SPDX-License-Identifier: Apache-2.0
"""The real classes of transformers at tiny size, saved to disk and loaded by the commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.eval._sets.vision_transformers import ProcessorPrepare, load_vision_transformer

transformers = pytest.importorskip("transformers")

_TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_RULES = {
    "dinov2": {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 28, "width": 28},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "clip": {
        "size": 28,
        "crop_size": 28,
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        model: Any
        if kind == "dinov2":
            model = transformers.Dinov2Model(transformers.Dinov2Config(**_TINY))
        else:
            vision = {**_TINY, "intermediate_size": 32, "projection_dim": 12}
            config = transformers.CLIPVisionConfig(**vision)
            if kind == "clip-whole":
                text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
                whole = transformers.CLIPConfig(
                    text_config={**text, "intermediate_size": 8, "vocab_size": 16},
                    vision_config=vision,
                    projection_dim=12,
                )
                model = transformers.CLIPModel(whole)
            elif kind == "clip":
                model = transformers.CLIPVisionModelWithProjection(config)
            else:
                model = transformers.CLIPVisionModel(config)
        model.save_pretrained(folder)
        rule = _RULES["dinov2" if kind == "dinov2" else "clip"]
        (folder / "preprocessor_config.json").write_text(json.dumps(rule))
        return folder

    return make


def _run(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout, " ".join(result.stderr.replace("│", " ").split())


def test_dinov2_gives_its_class_token(models: Callable[[str], Path]) -> None:
    folder = models("dinov2")
    extractor = load_vision_transformer("dinov2", folder)
    x = torch.rand(2, 3, 28, 28)
    with torch.inference_mode():
        model = transformers.Dinov2Model.from_pretrained(folder).eval()
        expected = model(pixel_values=x).last_hidden_state[:, 0]
    torch.testing.assert_close(extractor(x), expected)
    assert (extractor.dimensions, extractor.name) == (16, "Dinov2Model/16")
    assert extractor.provenance["resize"] == "bicubic to shorter side 32, middle 28x28"
    assert len(extractor.weights) == 64


@pytest.mark.parametrize("kind", ["clip", "clip-whole", "clip-vision"])
def test_clip_gives_its_embedding(kind: str, models: Callable[[str], Path]) -> None:
    folder = models(kind)
    extractor = load_vision_transformer("clip", folder)
    x = torch.rand(2, 3, 28, 28)
    with torch.inference_mode():
        if kind == "clip-vision":
            model = transformers.CLIPVisionModel.from_pretrained(folder).eval()
            expected = model(pixel_values=x).pooler_output
        else:
            model = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
            expected = model(pixel_values=x).image_embeds
    assert extractor.dimensions == expected.shape[1]
    torch.testing.assert_close(extractor(x), expected)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (28, 28), (20, 90)])
@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_images_are_prepared_as_by_transformers(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(_RULES[kind]))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = ProcessorPrepare.read(path)(image)
    # By definition, with Pillow.
    rule = _RULES[kind]
    side = rule["size"] if kind == "clip" else rule["size"]["shortest_edge"]  # type: ignore[index]
    height, width = size
    short = min(size)
    resized = Image.fromarray(image).resize(
        (int(side * width / short), int(side * height / short)), Image.Resampling.BICUBIC
    )
    top, left = (resized.height - 28) // 2, (resized.width - 28) // 2
    cropped = np.asarray(resized)[top : top + 28, left : left + 28] / 255
    expected = (cropped - rule["image_mean"]) / rule["image_std"]
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-6)


def test_the_commands_name_the_network(
    models: Callable[[str], Path], picture_folder: Callable[..., Path]
) -> None:
    folders = picture_folder("real", 8, seed=0), picture_folder("fake", 7, seed=1, contrast=0.5)
    for kind, title in (("dinov2", "DINOv2"), ("clip", "CLIP")):
        options = ["--features", kind, "--weights", models(kind), "--json"]
        record = json.loads(_run("fid", *folders, *options, "--kid")[0])
        assert record["metric"]["title"] == f"FD-{title}"
        assert record["metric"]["key"] == f"fd_{kind}"
        assert record["value"] > 0
        kid = json.loads(_run("kid", *folders, *options)[0])
        assert kid["metric"]["title"] == f"KD-{title}"
        assert kid["value"] == pytest.approx(record["details"]["kid"], rel=1e-9)
        assert ("cmmd" in kid["details"]) == (kind == "clip")
        for option, value in (("--resize", "bicubic"), ("--dimensions", 64)):
            assert (
                f"{option} is for inception"
                in _run("fid", *folders, *options, option, value, code=2)[1]
            )
        scores = json.loads(_run("precision-recall", *folders, *options)[0])
        assert scores["metric"]["key"] == f"precision_{kind}"


def test_nothing_is_fetched_and_what_is_missing_is_said(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"needs --weights FOLDER.*nothing is fetched"):
        load_vision_transformer("dinov2", None)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_vision_transformer("clip", Path("openai/clip-vit-large-patch14-336"))
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_vision_transformer("dinov2", tmp_path)
    dinov2 = models("dinov2")
    with pytest.raises(ValueError, match="holds a model of type 'dinov2', not CLIP"):
        load_vision_transformer("clip", dinov2)
    (dinov2 / "preprocessor_config.json").write_text('{"size": 1e9}')
    with pytest.raises(ValueError, match="no configuration of an image processor"):
        load_vision_transformer("dinov2", dinov2)
    (dinov2 / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json"):
        load_vision_transformer("dinov2", dinov2)


def test_damaged_weights_are_one_sentence(models: Callable[[str], Path]) -> None:
    folder = models("dinov2")
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="holds no weights of DINOv2"):
        load_vision_transformer("dinov2", folder)
    from safetensors.torch import load, save_file

    state = load(data)
    state.pop("layernorm.weight")
    save_file(state, weights)
    with pytest.raises(ValueError, match=r"layernorm\.weight is missing"):
        load_vision_transformer("dinov2", folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        load_vision_transformer("dinov2", folder)
