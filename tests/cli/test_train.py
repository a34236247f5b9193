# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli.train import SUBCOMMANDS, app, command_of
from genaccel.codec.image_codec import ImageCodec
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.models.restoration import Restoration
from genaccel.training.loop import LoopConfig, PathLike, RunPath
from genaccel.training.options import ABOVE_0, AT_LEAST_1, Option, check


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


def test_a_run_that_could_not_begin_leaves_nothing_to_disagree_with(photographs, tmp_path):
    run = tmp_path / "run"
    options = ["--out", run, "--steps", 1, "--batch-size", 1, "--perceptual-net", "none"]
    result = train("--data", tmp_path / "mistyped", "--crop-size", 64, *options)
    assert result.exit_code == 2
    assert "mistyped" in result.output
    assert not run.exists()
    result = train("--data", photographs, "--crop-size", 32, *options)
    assert result.exit_code == 0, result.output


def test_quantisation_aware_training_is_an_option_of_two_stages(photographs, tmp_path):
    common = ["--data", photographs, "--cpu", "--batch-size", 1, "--crop-size", 32]
    common += ["--warmup-steps", 3]
    aware = ["--quantization-aware", "--steps", 2]

    def invoke(*arguments):
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output

    plain = ["--perceptual-net", "none"]
    runs = {name: tmp_path / name for name in ("autoencoder", "entropy", "joint")}
    invoke("codec", *common, *plain, "--steps", 1, "--out", runs["autoencoder"])
    invoke("entropy", *common, *aware, "--start", runs["autoencoder"], "--out", runs["entropy"])
    invoke("joint", *common, *aware, *plain, "--start", runs["entropy"], "--out", runs["joint"])
    for name, run in runs.items():
        options = json.loads((run / "training.json").read_text())
        assert options["warmup_steps"] == 3
        if name != "autoencoder":
            assert options["quantization_aware"] is True
            codec = ImageCodec.from_pretrained(run / "model")
            assert codec.entropy_model is not None
            image = np.full((40, 50, 3), 99, np.uint8)
            assert codec.decode(codec.encode(image)).shape == image.shape
    again = ["--start", runs["autoencoder"], "--out", runs["entropy"], "--steps", 2]
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
    runs = {name: tmp_path / name for name in ("autoencoder", "entropy", "joint", "again")}
    invoke("codec", *common, *plain, "--out", runs["autoencoder"])
    output = invoke("entropy", *common, "--start", runs["autoencoder"], "--out", runs["entropy"])
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
        app,
        ["joint", *map(str, [*common, "--start", runs["autoencoder"], "--out", tmp_path / "x"])],
    )
    assert result.exit_code == 2
    assert "has no entropy model" in " ".join(result.output.replace("│", " ").split())


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """Nested.

    Args:
        weight: Of something.
    """

    weight: Annotated[float, Option(name="inner_weight"), ABOVE_0] = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """Of a recipe.

    Args:
        widths: Of its layers.
        relaxed: Whether it is.
        kind: Of two.
        limit: By default none.
        temperature: 0 for none.
        seed: Of this too.
    """

    inner: Inner = field(default_factory=Inner)
    widths: Annotated[tuple[int, ...], Option()] = (8, 16)
    relaxed: Annotated[bool, Option(off="hard")] = True
    fast: Annotated[bool, Option()] = False
    kind: Annotated[Literal["a", "b"], Option()] = "a"
    limit: Annotated[int | None, Option(), AT_LEAST_1] = None
    temperature: Annotated[float | None, Option(none=0.0)] = 0.1
    seed: Annotated[int, Option()] = 0
    hidden: int = 3

    def __post_init__(self):
        check(self)


def recipe(
    outer: Outer,
    loop: LoopConfig = LoopConfig(steps=7),  # noqa: B008
    *,
    data: PathLike,
    run: RunPath,
    start: PathLike | None = None,
    cpu: bool = False,
):
    """Fail with what was given, as a recipe fails.

    Args:
        data: Where pictures are.
    """
    raise ValueError(repr((outer, loop, data, run, start, cpu)))


def given(*options):
    command = typer.Typer()
    command.command()(command_of(recipe, "Try."))
    result = CliRunner().invoke(command, ["--data", "d", "--out", "o", *map(str, options)])
    assert result.exit_code == 2
    return " ".join(result.output.replace("│", " ").split())


def test_options_are_made_of_configurations():
    untouched = repr((Outer(), LoopConfig(steps=7)))[1:-1]
    assert f"({untouched}, PosixPath('d'), PosixPath('o'), None, False)" in given()
    changed = given(
        *["--inner-weight", 2, "--widths", "4,5", "--hard", "--fast", "--kind", "b"],
        *["--limit", 9, "--temperature", 0, "--seed", 5, "--steps", 8, "--start", "s", "--cpu"],
    )
    outer = Outer(
        inner=Inner(weight=2.0),
        widths=(4, 5),
        relaxed=False,
        fast=True,
        kind="b",
        limit=9,
        temperature=None,
        seed=5,
    )
    expected = repr((outer, LoopConfig(steps=8, seed=5)))[1:-1]
    assert f"({expected}, PosixPath('d'), PosixPath('o'), PosixPath('s'), True)" in changed
    assert "limit must be at least 1, got 0" in given("--limit", 0)
    assert "--widths must be numbers with commas between them" in given("--widths", "4,x")
    for absent in ("--hidden", "--no-fast", "--weight", "--log-every"):
        assert "No such option" in given(absent, 1)


@pytest.mark.parametrize("row", SUBCOMMANDS, ids=lambda row: row.name)
def test_every_option_says_what_it_is(row):
    group = typer.main.get_group(app)
    _, command, _ = group.resolve_command(None, [row.name])
    assert command.help == row.help
    for parameter in command.params:
        assert parameter.help, parameter.name


def test_a_run_says_its_precision_and_its_speed(photographs, tmp_path):
    options = ["--data", photographs, "--out", tmp_path / "run", "--steps", 3, "--batch-size", 1]
    result = train(*options, "--crop-size", 32, "--perceptual-net", "none")
    assert result.exit_code == 0, result.output
    assert "training on cpu in fp32" in result.stderr
    assert "samples/s" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "huge"], "preset must be one of"),
        (["--crop-size", "33"], "multiple of 32"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--mixed-precision", "int4"], "--mixed-precision"),
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
    result = invoke("vae", *options, "--out", tmp_path / "x", "--channels", "8,x")
    said = " ".join(result.output.replace("│", " ").split())
    assert "--channels must be numbers with commas between them, got '8,x'" in said
    assert not (tmp_path / "x").exists()
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
