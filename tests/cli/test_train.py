# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli.train import app
from genaccel.codec.image_codec import ImageCodec
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.models.restoration import Restoration


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    return folder


def train(*options):
    return CliRunner().invoke(app, ["codec", "--cpu", *map(str, options)])


def test_two_steps_make_a_model_that_loads(photographs, tmp_path):
    run = tmp_path / "run"
    options = ["--data", photographs, "--out", run, "--steps", 2, "--batch-size", 1]
    options += ["--crop-size", 32, "--perceptual-net", "none"]
    result = train(*options)
    assert result.exit_code == 0, result.output
    assert "bits per pixel" in result.output
    assert Autoencoder.from_pretrained(run / "model").params.strides == (32, 16, 8)
    assert json.loads((run / "training.json").read_text())["steps"] == 2
    exported = CliRunner().invoke(
        app, ["export", str(run), str(tmp_path / "again"), "--data", str(photographs)]
    )
    assert exported.exit_code == 0, exported.output
    first = Autoencoder.from_pretrained(run / "model")
    assert Autoencoder.from_pretrained(tmp_path / "again").digest() == first.digest()


def test_quantisation_aware_training_is_an_option_of_two_stages(photographs, tmp_path):
    common = ["--data", photographs, "--cpu", "--batch-size", 1, "--crop-size", 32]
    common += ["--warmup-steps", 3]
    aware = ["--quantization-aware", "--steps", 2]

    def invoke(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output

    plain = ["--perceptual-net", "none"]
    runs = {name: tmp_path / name for name in ("tokenizer", "entropy", "joint")}
    invoke("codec", *common, *plain, "--steps", 1, "--out", runs["tokenizer"])
    invoke("entropy", *common, *aware, "--start", runs["tokenizer"], "--out", runs["entropy"])
    invoke("joint", *common, *aware, *plain, "--start", runs["entropy"], "--out", runs["joint"])
    for name, run in runs.items():
        options = json.loads((run / "training.json").read_text())
        assert options["warmup_steps"] == 3
        if name != "tokenizer":
            assert options["quantization_aware"] is True
            codec = ImageCodec.from_pretrained(run / "model")
            assert codec.entropy_model is not None
            image = np.full((40, 50, 3), 99, np.uint8)
            assert codec.decode(codec.encode(image)).shape == image.shape
    again = ["--start", runs["tokenizer"], "--out", runs["entropy"], "--steps", 2]
    result = CliRunner().invoke(app, ["entropy", *map(str, [*common, *again])])
    assert result.exit_code == 2
    assert "quantization_aware: True -> False" in " ".join(result.output.replace("│", " ").split())


def test_four_commands_make_a_codec_with_an_entropy_model(photographs, tmp_path):
    common = ["--data", photographs, "--cpu", "--steps", 1, "--batch-size", 1, "--crop-size", 32]

    def invoke(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        return result.output

    plain = ["--perceptual-net", "none"]
    runs = {name: tmp_path / name for name in ("tokenizer", "entropy", "joint", "again")}
    invoke("codec", *common, *plain, "--out", runs["tokenizer"])
    output = invoke("entropy", *common, "--start", runs["tokenizer"], "--out", runs["entropy"])
    assert "by the entropy model" in output
    invoke("joint", *common, *plain, "--start", runs["entropy"], "--out", runs["joint"])
    options = json.loads((runs["joint"] / "training.json").read_text())
    assert (options["stage"], options["training"]["rate_weight"]) == ("joint", 1.0)
    # The model folder is a start as well as its run, and `export` writes the same model.
    invoke("entropy", *common, "--start", runs["joint"] / "model", "--out", runs["again"])
    folder = tmp_path / "exported"
    invoke("export", runs["joint"], folder, "--data", photographs, "--entropy-precision", "fp16")
    assert MaskedEntropyModel.from_pretrained(folder / "entropy").params.codebook_size == 1024
    digests = {Autoencoder.from_pretrained(f).digest() for f in (folder, runs["joint"] / "model")}
    assert len(digests) == 1

    result = CliRunner().invoke(
        app, ["joint", *map(str, [*common, "--start", runs["tokenizer"], "--out", tmp_path / "x"])]
    )
    assert result.exit_code == 2
    assert "has no entropy model" in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "huge"], "preset must be one of"),
        (["--crop-size", "33"], "multiple of 32"),
        (["--data", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_usage_errors_are_one_sentence_and_exit_2(options, message, photographs, tmp_path):
    defaults = ["--data", photographs, "--out", tmp_path / "run", "--perceptual-net", "none"]
    result = train(*defaults, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_two_commands_make_a_pipeline(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    random = np.random.default_rng(0)
    for name in ("beach0", "beach1", "beach2", "beach3"):
        pixels = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"{name}.png")
    run, common = tmp_path / "vae-run", ["--data", data, "--cpu", "--steps", 1, "--batch-size", 1]

    def invoke(*arguments):
        return CliRunner().invoke(app, list(map(str, arguments)))

    options = [*common, "--image-size", 32, "--channels", "8,16"]
    result = invoke("vae", *options, "--out", run)
    if "pip install" in result.output:
        pytest.skip("the weights of ST-LPIPS are not installed")
    assert result.exit_code == 0, result.output
    result = invoke("vae", *options, "--out", tmp_path / "x", "--channels", "8,17")
    assert result.exit_code == 2
    assert "channels must be multiples of 8" in " ".join(result.output.replace("│", " ").split())
    result = invoke(
        *["dit", *common, "--vae", run / "vae", "--out", tmp_path / "dit"],
        *["--layers", 1, "--heads", 1, "--latents", 2],
    )
    assert result.exit_code == 0, result.output
    index = json.loads((tmp_path / "dit/pipeline/model_index.json").read_text())
    assert index["_class_name"] == "DiTPipeline"
    assert index["id2label"] == {"0": "beach"}


def test_restoration_is_one_command(photographs, tmp_path):
    run = tmp_path / "run"
    # Views of 256 pixels: a picture is reduced to nine tenths at most before one is cut out.
    random = np.random.default_rng(0)
    large = Image.fromarray(random.integers(0, 256, (30, 36, 3), dtype=np.uint8))
    large.resize((360, 300), Image.Resampling.BICUBIC).save(photographs / "large.png")
    options = ["--data", photographs, "--cpu", "--steps", 2, "--batch-size", 2, "--views", 4]
    options += ["--channels", 8, "--blocks", 2, "--inner-blocks", 1, "--window-size", 32]

    def invoke(*arguments):
        return CliRunner().invoke(app, ["restoration", *map(str, arguments)])

    result = invoke(*options, "--out", run)
    assert result.exit_code == 0, result.output
    assert Restoration.from_pretrained(run / "model").config.channels == 8
    start = ["--pairs", run / "pairs", "--start", run / "model"]
    result = invoke(*options, *start, "--out", tmp_path / "next")
    assert result.exit_code == 0, result.output
    result = invoke(*options, "--out", run, "--learning-rate", 1e-3)
    assert result.exit_code == 2
    assert "holds a run with other options" in " ".join(result.output.replace("│", " ").split())
