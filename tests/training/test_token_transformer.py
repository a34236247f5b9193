# SPDX-License-Identifier: Apache-2.0
"""Tokeniser and generator at tiny size: a ``VQModel`` and a ``LlamaForCausalLM`` that stock libraries load."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image

from genaccel.training.loop import LoopConfig
from genaccel.training.recipes.latent_autoencoder import LatentAutoencoderConfig
from genaccel.training.recipes.token_transformer import (
    TokenTransformerConfig,
    TokenTransformerTraining,
    load_token_transformer,
    negative_log_likelihood,
)
from genaccel.training.recipes.vector_quantized_autoencoder import (
    VectorQuantizedAutoencoderConfig,
    VectorQuantizedAutoencoderTraining,
    cluster_centres,
    load_vq_model,
    tokens_of,
    weights_of_kl,
)

pytest.importorskip("transformers")

LOOP = LoopConfig(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, log_every=2)
VQ = VectorQuantizedAutoencoderConfig(
    image_size=32, channels=(8, 16), codebook_size=16, perceptual_weight=0, min_scale=0.5
)
AR = TokenTransformerConfig(
    num_layers=1,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    image_size=32,
    min_scale=0.5,
    max_scale=1.0,
    num_crops=6,
    held_out_crops=3,
    min_class_images=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("beach0", "beach1", "beach2", "sky0", "sky1", "cat"):
        coarse = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((80, 48)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("vq") / "run"
    training = VectorQuantizedAutoencoderTraining(VQ, LOOP, data=data, run=run, cpu=True)
    training.train()
    training.export()
    return run / "vq"


def test_a_vq_model_that_starts_with_a_kl_autoencoder_encodes_and_decodes_as_it_does() -> None:
    torch.manual_seed(0)
    kl: Any = LatentAutoencoderConfig(image_size=32, channels=(8, 16), perceptual_weight=0).build()
    vq: Any = VQ.build()
    missing = vq.load_state_dict(weights_of_kl(kl), strict=False).missing_keys
    assert missing == ["quantize.embedding.weight"]
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.inference_mode():
        latents = kl.encode(images).latent_dist.mean
        torch.testing.assert_close(vq.encode(images).latents, latents)
        torch.testing.assert_close(
            vq.decoder(vq.post_quant_conv(latents)), kl.decode(latents).sample
        )


def test_a_run_from_a_kl_autoencoder_makes_its_codebook_of_latents(
    data: Path, tmp_path: Path
) -> None:
    kl: Any = LatentAutoencoderConfig(image_size=32, channels=(8, 16), perceptual_weight=0).build()
    kl.save_pretrained(tmp_path / "kl")
    training = VectorQuantizedAutoencoderTraining(
        VQ, LOOP, data=data, run=tmp_path / "run", start=tmp_path / "kl", cpu=True
    )
    model = training.plain_model()
    with torch.inference_mode():
        latents = model.encode(training.batch(range(4))).latents.permute(0, 2, 3, 1).reshape(-1, 4)
        distance = torch.cdist(latents, model.quantize.embedding.weight).min(1).values
    assert distance.square().mean() < 0.5 * latents.var(0).sum()


def test_clusters_come_nearer_to_the_points_and_none_is_left_without() -> None:
    points = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    errors = []
    for rounds in (0, 1, 20):
        centres = cluster_centres(points, 12, rounds=rounds, seed=2)
        distance, nearest = torch.cdist(points, centres).min(1)
        errors.append(float(distance.square().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert len(nearest.unique()) == 12


def test_tokens_decode_to_the_pictures_that_the_autoencoder_gives(
    tokenizer: Path, data: Path
) -> None:
    model: Any = VQModel.from_pretrained(tokenizer)
    images = VQ.dataset(data, seed=3)[0][None]
    tokens = tokens_of(model, images)
    assert tokens.shape == (1, 16, 16)
    assert tokens.min() >= 0
    assert tokens.max() < 16
    with torch.inference_mode():
        decoded = model.decode(tokens, force_not_quantize=True, shape=(1, 16, 16, 4)).sample
        quantized = model.quantize(model.encode(images).latents)[0]
        torch.testing.assert_close(decoded, model.decoder(model.post_quant_conv(quantized)))


def test_the_decoder_alone_keeps_the_tokens(tokenizer: Path, data: Path, tmp_path: Path) -> None:
    config = replace(VQ, decoder_only=True)
    with pytest.raises(ValueError, match="give the autoencoder to start from"):
        VectorQuantizedAutoencoderTraining(config, LOOP, data=data, run=tmp_path / "a", cpu=True)
    training = VectorQuantizedAutoencoderTraining(
        config, LOOP, data=data, run=tmp_path / "b", start=tokenizer, cpu=True
    )
    training.train()
    before: Any = VQModel.from_pretrained(tokenizer)
    after = load_vq_model(tmp_path / "b")
    images = training.batch(range(2))
    assert torch.equal(tokens_of(before, images), tokens_of(after, images))
    assert not torch.equal(before.decoder.conv_in.weight, after.decoder.conv_in.weight)


def test_a_generator_learns_tokens_after_the_class(
    tokenizer: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    training = TokenTransformerTraining(
        AR, LOOP, tokenizer=tokenizer, data=data, held_out=data, run=run, cpu=True
    )
    assert training.class_names == ["beach", "sky"]
    assert training.tokens.shape == (6, 256)
    assert set(training.labels.tolist()) <= {0, 1, 2}  # 2: no class, as the cat
    tokens, labels = training.batch(range(6, 12))
    assert len({tuple(row.tolist()) for row in tokens}) == 6  # every crop once before any twice
    nll = negative_log_likelihood(training.plain_model(), tokens, labels, 16)
    assert nll.shape == (6, 256)
    # Changing a token leaves the likelihood of those before it alone.
    changed = tokens.clone()
    changed[:, 100] = (changed[:, 100] + 1) % 16
    other = negative_log_likelihood(training.plain_model(), changed, labels, 16)
    torch.testing.assert_close(other[:, :100], nll[:, :100])
    assert not torch.allclose(other[:, 101:], nll[:, 101:])
    training.train()
    assert "nats a token of held-out crops" in training.export()
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(run / "transformer")
    assert model.config.vocab_size == 16 + 2 + 1
    assert model.config.eos_token_id is None


def test_a_resumed_run_equals_an_uninterrupted_one(
    tokenizer: Path, data: Path, tmp_path: Path
) -> None:
    def train(run: Path, until: int) -> None:
        training = TokenTransformerTraining(
            AR, LOOP, tokenizer=tokenizer, data=data, run=run, cpu=True
        )
        while training.step < until:
            training._update()
        training.save()

    train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    train(tmp_path / "parts", 4)
    weights = load_token_transformer(tmp_path / "whole").state_dict()
    for name, value in load_token_transformer(tmp_path / "parts").state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_model_goes_on_from_another_run(tokenizer: Path, data: Path, tmp_path: Path) -> None:
    first = TokenTransformerTraining(
        AR, LOOP, tokenizer=tokenizer, data=data, run=tmp_path / "a", cpu=True
    )
    first.train()
    first.export()
    second = TokenTransformerTraining(
        AR,
        LOOP,
        tokenizer=tokenizer,
        data=data,
        run=tmp_path / "b",
        start=tmp_path / "a/transformer",
        cpu=True,
    )
    weights = load_token_transformer(tmp_path / "a").half().float().state_dict()
    for name, value in second.plain_model().state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_what_can_not_be_is_said(tokenizer: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size must be a multiple of 2, got 33"):
        TokenTransformerTraining(
            replace(AR, image_size=33), LOOP, tokenizer=tokenizer, data=data, run=tmp_path, cpu=True
        )
    with pytest.raises(ValueError, match="min_scale must not be above max_scale"):
        replace(VQ, min_scale=0.9, max_scale=0.5)
    with pytest.raises(ValueError, match="channels must be multiples of 8"):
        replace(VQ, channels=(8, 12))


def test_a_drafter_learns_a_generators_features(
    tokenizer: Path, data: Path, tmp_path: Path
) -> None:
    from genaccel.skip_decoding.decoding import decode
    from genaccel.skip_decoding.drafts.feature_drafter import FeatureDrafter, FeatureDrafterNetwork
    from genaccel.skip_decoding.drafts.training import DrafterConfig, DrafterTraining
    from genaccel.skip_decoding.sampling import SamplingRule

    generator = TokenTransformerTraining(
        AR, LOOP, tokenizer=tokenizer, data=data, run=tmp_path / "ar", cpu=True
    )
    generator.train()
    training = DrafterTraining(
        DrafterConfig(), LOOP, target=tmp_path / "ar", run=tmp_path / "drafter", cpu=True
    )
    _, parts = training.loss(training.batch(range(2)), torch.Generator().manual_seed(0))
    assert 0 < float(parts["acceptance"]) < 1 < float(parts["acceptance_length"]) < 5
    training.train()
    training.export()
    network = FeatureDrafterNetwork.from_pretrained(tmp_path / "drafter/drafter")
    target = load_token_transformer(tmp_path / "ar")
    rule = SamplingRule(allowed=(0, 16), guidance_scale=2.0)
    prompts, free = torch.tensor([[16], [17]]), torch.tensor([[18], [18]])
    plain, drafted = (
        decode(
            target,
            prompts,
            rule=rule,
            max_new_tokens=20,
            negative_prompts=free,
            drafter=drafter,
        )
        for drafter in (None, FeatureDrafter(network.float(), target))
    )
    assert torch.equal(drafted.tokens, plain.tokens)
    other = AR.build(vocabulary=21, length=256)
    with pytest.raises(ValueError, match="16 channels and 19 tokens, and this model has 16 and 21"):
        FeatureDrafter(network, other)
