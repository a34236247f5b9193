# SPDX-License-Identifier: Apache-2.0
"""The flag ``accelerate="vvs"`` and ``genaccel.enable`` on pipelines that draw image tokens."""

import inspect
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import DiffusionPipeline, GlmImagePipeline

pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parent))
from tiny_autoregressive import tiny_autoregressive
from tiny_glm_image import tiny_glm_image, tiny_language_model, tiny_tokenizer

import genaccel
from genaccel.pipelines import glm_image_skip_decoding
from genaccel.pipelines.accelerate_mixin import SkipDecodingMixin
from genaccel.pipelines.autoregressive_image_pipeline import AutoregressiveImagePipeline
from genaccel.pipelines.autoregressive_image_skip_decoding import (
    AutoregressiveImageSkipDecodingPipeline,
)
from genaccel.pipelines.glm_image_skip_decoding import GlmImageSkipDecodingPipeline
from genaccel.skip_decoding import (
    FeatureDrafterNetwork,
    JacobiDrafter,
    SkipDecodingConfig,
    speculative_generate,
)
from genaccel.skip_decoding.drafts.feature_drafter import FeatureDrafterParams


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_autoregressive(AutoregressiveImageSkipDecodingPipeline)


def test_the_flag_draws_the_same_tokens_in_fewer_forwards(pipe: Any) -> None:
    plain = pipe([0, 1, -1], seed=5)
    found = pipe([0, 1, -1], seed=5, accelerate="vvs")
    assert torch.equal(found.tokens, plain.tokens)
    assert found.report.target_forwards < plain.report.target_forwards == 64
    assert pipe.acceleration.report()["transformer"].decoding is found.report
    handle = pipe.acceleration
    generator = torch.Generator().manual_seed(1)
    again = pipe([0], generator=generator, accelerate="vvs", output_type="latent")
    assert pipe.acceleration is handle
    other = pipe([0], generator=generator.manual_seed(1), output_type="latent")
    assert pipe.acceleration is None
    assert torch.equal(again.images, other.images)
    assert torch.equal(pipe([1]).tokens, pipe([1], accelerate="vvs").tokens)
    assert pipe([], accelerate="vvs").images == []
    pipe.disable_acceleration()


def test_faster_flags_need_a_trained_drafter_and_know_the_code_words(
    pipe: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="give a drafter that was trained"):
        pipe([0], accelerate="vvs:uniform")
    config = SkipDecodingConfig(acceptance="lantern", relaxed_topk=4)
    assert pipe([0], accelerate=config).tokens.shape == (1, 64)
    plain = pipe([0, 1], seed=3).tokens
    pipe.save_pretrained(tmp_path)
    params = FeatureDrafterParams.for_target(pipe.transformer.config)
    FeatureDrafterNetwork(params).save_pretrained(tmp_path / "drafter")
    loaded = AutoregressiveImageSkipDecodingPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(loaded([0, 1], seed=3, accelerate="vvs").tokens, plain)
    assert "FeatureDrafter drafts" in str(loaded.acceleration.doctor())
    for flag in ("vvs:dynamic", "vvs:uniform"):
        assert loaded([0, 1], seed=3, accelerate=flag).tokens.shape == (2, 64)
    skipping = SkipDecodingConfig(skip="uniform", tree=4)  # this drafter pays nowhere
    assert loaded([0, 1], seed=3, accelerate=skipping).tokens.shape == (2, 64)
    assert loaded.acceleration.report()["transformer"].decoding.unverified_fraction > 0
    assert torch.equal(loaded([0, 1], seed=3).tokens, plain)


def test_enabling_is_of_one_pipeline_and_is_undone() -> None:
    pipe = tiny_autoregressive(AutoregressiveImagePipeline)
    twin = AutoregressiveImagePipeline(pipe.transformer, pipe.vqvae, ["beach", "sky"])
    before = dict(vars(pipe))
    with genaccel.enable(pipe, SkipDecodingConfig(seed=7)) as handle:
        fast = pipe([0])
        assert twin([0], seed=7).report.target_forwards == 64
        assert torch.equal(twin([0], seed=7).tokens, fast.tokens)
        assert fast.report.target_forwards < 64
        with handle.paused():
            assert pipe([0], seed=7).report.target_forwards == 64
        own = pipe([0], seed=7, drafter=JacobiDrafter(1))
        assert own.report.target_forwards > fast.report.target_forwards
        with pytest.raises(ValueError, match="accelerated already"):
            genaccel.enable(pipe, SkipDecodingConfig())
        assert genaccel.is_enabled(pipe)
        assert not genaccel.is_enabled(twin)

        def cancels(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pipe([0], callback_on_tokens=cancels)
        assert torch.equal(pipe([0]).tokens, fast.tokens)
    assert dict(vars(pipe)) == before


def test_a_model_that_is_cast_or_exchanged_meanwhile_is_the_one_that_draws() -> None:
    pipe = tiny_autoregressive(AutoregressiveImagePipeline)
    call: dict[str, Any] = {"class_labels": [0], "seed": 7, "output_type": "latent"}
    network = FeatureDrafterNetwork(FeatureDrafterParams.for_target(pipe.transformer.config))
    with genaccel.enable(pipe, SkipDecodingConfig(drafter=network, tree=3)) as handle:
        first = pipe(**call).tokens
        pipe.to(torch.float64)
        assert torch.equal(pipe(**call).tokens, first)
        pipe.to(torch.float32)
        other = tiny_autoregressive(AutoregressiveImagePipeline).transformer
        for weight in other.parameters():
            weight.data.mul_(-1)
        pipe.register_modules(transformer=other)
        found = pipe(**call).tokens
        with handle.paused():
            assert torch.equal(pipe(**call).tokens, found)
    assert not torch.equal(found, first)


def test_pipelines_without_tokens_are_refused() -> None:
    class Nothing:
        components: ClassVar[dict[str, Any]] = {}

    with pytest.raises(ValueError, match="has no language model that generates"):
        genaccel.enable(Nothing(), SkipDecodingConfig())


# GLM-Image

INPUTS = {"height": 64, "width": 64}


def glm_inputs(model: Any, prompts: list[str], grids: list[list[int]]) -> dict[str, Any]:
    """What GLM-Image's processor makes, with pictures small enough for a test."""
    made = tiny_tokenizer()([f"{prompt}<start>" for prompt in prompts], padding=True)
    return {
        "input_ids": torch.tensor(made["input_ids"]),
        "attention_mask": torch.tensor(made["attention_mask"]),
        "image_grid_thw": torch.tensor(grids * len(prompts)),
        "images_per_sample": torch.tensor([len(grids)] * len(prompts)),
    }


@pytest.mark.parametrize("ends", [False, True], ids=["whole", "ends"])
def test_glm_image_places_its_tokens_on_three_axes(ends: bool) -> None:
    model = tiny_language_model().double()
    inputs = glm_inputs(model, ["a red cat", "dog", "a"], [[1, 4, 6], [1, 2, 3]])
    length = inputs["input_ids"].shape[1]
    call = {**inputs, "max_new_tokens": 31, "do_sample": False}
    plain = model.generate(**call)
    assert plain.shape[1] == length + 31
    if ends:  # one after the other, so that the rows of a batch are not those of its beginning
        call["eos_token_id"] = int(plain[1, length + 3])
        plain = model.generate(**call)
        assert len({int((row == call["eos_token_id"]).sum()) for row in plain[:, length:]}) > 1
    state = model.model._cached_decode_position_ids
    for drafter in ("auto", None):
        reports: list[Any] = []
        found = model.generate(
            **call,
            custom_generate=speculative_generate,
            skip_decoding=SkipDecodingConfig(drafter=drafter),
            on_report=reports.append,
        )
        assert torch.equal(found, plain)
        assert reports[0].decoding is not None
    assert model.model._cached_decode_position_ids is state
    assert reports[0].decoding.target_forwards == plain.shape[1] - length  # without a drafter


def test_a_glm_image_pipeline_is_accelerated_by_one_line(tmp_path: Path) -> None:
    tiny_glm_image(GlmImagePipeline).save_pretrained(tmp_path)
    pipe: Any = DiffusionPipeline.from_pretrained(
        tmp_path, custom_pipeline=glm_image_skip_decoding.__file__, trust_remote_code=True
    )
    pipe.set_progress_bar_config(disable=True)
    model = pipe.vision_language_encoder.double()
    stock = type(model)

    def run(**others: Any) -> Any:
        return pipe(
            prompt=["a red cat", "a dog"],
            **INPUTS,
            num_inference_steps=1,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
            **others,
        ).images

    fast = run(accelerate="vvs")
    report = pipe.acceleration.report()["vision_language_encoder"].decoding
    assert report.generated_tokens == 2 * (4 + 256 + 1)
    assert report.target_forwards < 261
    one_by_one = run(accelerate=SkipDecodingConfig(drafter=None))
    assert (fast == one_by_one).all()
    # Calls of the model beside the pipeline's are plain.
    report = pipe.acceleration.report()["vision_language_encoder"].decoding
    model.generate(torch.tensor([[30, 31]]), max_new_tokens=2, do_sample=False)
    assert pipe.acceleration.report()["vision_language_encoder"].decoding is report
    run()
    assert pipe.acceleration is None
    assert type(model) is stock
    assert not [name for name in (*vars(model), *vars(pipe)) if "genaccel" in name]


@pytest.mark.parametrize(
    ("ready", "base"),
    [
        (AutoregressiveImageSkipDecodingPipeline, AutoregressiveImagePipeline),
        (GlmImageSkipDecodingPipeline, GlmImagePipeline),
    ],
)
def test_files_are_a_pipeline_and_the_mixin(ready: Any, base: Any) -> None:
    assert ready.__bases__ == (SkipDecodingMixin, base)
    flag = inspect.signature(ready.__call__).parameters["accelerate"]
    assert flag.default is None
    assert "vvs:lantern" in ready.__call__.__doc__
