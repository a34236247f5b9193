# SPDX-License-Identifier: Apache-2.0
"""Class -> tokens -> picture, with stock models of tiny size."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parent))
from tiny_autoregressive import tiny_autoregressive

from genaccel.pipelines import autoregressive_image_pipeline
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter
from genaccel.skip_decoding.options import DecodingOptions, SkipRule
from genaccel.training.recipes.vector_quantized_autoencoder import tokens_of

Pipeline = autoregressive_image_pipeline.AutoregressiveImagePipeline


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_autoregressive(Pipeline)


def test_pictures_of_classes(pipe: Any) -> None:
    assert pipe.labels == {"beach": 0, "sky": 1}
    found = pipe([0, 1, -1], seed=3)
    assert [image.size for image in found.images] == [(16, 16)] * 3
    assert found.tokens.shape == (3, 64)
    assert int(found.tokens.max()) < 16  # code words alone
    again = pipe([0, 1, -1], generator=torch.Generator().manual_seed(1), output_type="latent")
    assert not torch.equal(again.images, found.tokens)
    assert pipe([0], seed=3, output_type="np", return_dict=False)[0].shape == (1, 16, 16, 3)
    assert pipe([], seed=3).images == []


def test_a_drafter_changes_the_cost_alone(pipe: Any) -> None:
    plain = pipe([0, 1], seed=5)
    drafted = pipe([0, 1], seed=5, drafter=JacobiDrafter(4, row_length=8))
    assert torch.equal(plain.tokens, drafted.tokens)
    assert drafted.report.target_forwards < plain.report.target_forwards == 64
    skipped = pipe(
        [0, 1], seed=5, drafter=JacobiDrafter(4), options=DecodingOptions(skip=SkipRule())
    )
    assert skipped.report.unverified_fraction > 0


def test_tokens_decode_to_the_picture_that_the_tokeniser_gives(pipe: Any) -> None:
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    tokens = tokens_of(pipe.vqvae, images)
    with torch.no_grad():
        latents = pipe.vqvae.encode(images).latents
        expected = pipe.vqvae.decoder(pipe.vqvae.post_quant_conv(pipe.vqvae.quantize(latents)[0]))
    torch.testing.assert_close(pipe.decode_tokens(tokens.flatten(1), 8, 8), expected)


def test_a_folder_is_loaded_by_its_class_and_by_its_file(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    expected = pipe([1], seed=2).tokens
    loaded = Pipeline.from_pretrained(tmp_path)
    assert loaded.labels == pipe.labels
    assert torch.equal(loaded([1], seed=2).tokens, expected)
    other: Any = DiffusionPipeline.from_pretrained(
        tmp_path,
        custom_pipeline=autoregressive_image_pipeline.__file__,
        trust_remote_code=True,
    )
    assert torch.equal(other([1], seed=2).tokens, expected)


def test_what_cannot_be_is_said(pipe: Any) -> None:
    with pytest.raises(ValueError, match="from 0 to 1, or -1 for none, got 2"):
        pipe([0, 2])
    with pytest.raises(ValueError, match="multiples of 2, got 17 and 16"):
        pipe([0], height=17)
    with pytest.raises(ValueError, match="multiples of 2, got 0 and 16"):
        pipe([0], height=0)
    for labels in (0, ["sky"], [0.5]):
        with pytest.raises(TypeError, match="class_labels must be a list of numbers"):
            pipe(labels)
    with pytest.raises(TypeError, match=r"one torch\.Generator for all pictures, got a list"):
        pipe([0], generator=[torch.Generator()])
    with pytest.raises(ValueError, match="output_type must be"):
        pipe([0], output_type="gif")
    with pytest.raises(ValueError, match="has 19 tokens; 16 code words, 1 classes"):
        Pipeline(pipe.transformer, pipe.vqvae, ["beach"])
