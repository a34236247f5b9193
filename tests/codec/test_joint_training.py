# SPDX-License-Identifier: Apache-2.0
"""The stages entropy and joint at tiny size: what learns, what stays, resume, and the exported folder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from same_state import assert_same
from tiny_codec import save_photographs

from genaccel.codec.image_codec import ImageCodec
from genaccel.codec.training.entropy import EntropyTraining
from genaccel.codec.training.export import export_model
from genaccel.codec.training.index_statistics import has_index_cdfs
from genaccel.codec.training.joint import JointTraining
from genaccel.codec.training.stage_config import EntropyTrainingConfig, JointTrainingConfig
from genaccel.codec.training.trained_networks import load_networks, load_scales
from genaccel.models.integer_export import integer_model_of
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.models.quantization_aware import QuantizationAwareEntropyModel
from genaccel.training.crops import CropConfig
from genaccel.training.distortion import DistortionWeights
from genaccel.training.loop import LoopConfig

LOOP = LoopConfig(steps=6, batch_size=2, learning_rate=1e-3, warmup_steps=2, log_every=2)
CROPS = CropConfig(crop_size=48)  # a window and a half: padding is part of every test
ENTROPY = EntropyTrainingConfig(crops=CROPS)
JOINT = JointTrainingConfig(
    crops=CROPS,
    distortion=DistortionWeights(perceptual_net="none"),
    adversarial_weight=0.1,
    adversarial_start_step=2,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_photographs(tmp_path_factory.mktemp("data") / "photographs")


@pytest.fixture
def entropy_training(fresh_networks, data):
    def make(run, loop=LOOP, config=ENTROPY, autoencoder=None):
        fresh, entropy_model = fresh_networks()
        return EntropyTraining(
            autoencoder or fresh, entropy_model, config, loop, data=data, run=run, cpu=True
        )

    return make


@pytest.fixture
def joint_training(fresh_networks, data):
    def make(run, config=JOINT, loop=LOOP):
        return JointTraining(*fresh_networks(), config, loop, data=data, run=run, cpu=True)

    return make


def hard_bits_per_token(training):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        _, parts = training.loss(training.batch(range(100, 116)), generator)
    return float(parts["hard_bits_per_token"])


def test_entropy_stage_learns_the_rate_and_leaves_the_autoencoder(
    entropy_training, fresh_networks, tmp_path
):
    loop = replace(LOOP, steps=60, batch_size=4, learning_rate=1e-2)
    training = entropy_training(tmp_path, loop)
    before = hard_bits_per_token(training)
    assert before == pytest.approx(5, abs=1e-4)  # log2(32): the output layer begins as zeros
    training.train()
    assert hard_bits_per_token(training) < 0.9 * before
    made = load_networks(tmp_path)
    assert made.entropy_model is not None
    assert_same(made.autoencoder.state_dict(), fresh_networks()[0].state_dict())


def test_joint_stage_moves_all_but_the_codebook_and_a_dear_rate_falls(
    joint_training, fresh_networks, tmp_path
):
    config = replace(JOINT, rate_weight=100.0, adversarial_weight=0.0)
    loop = replace(LOOP, steps=60, batch_size=4, learning_rate=1e-2)
    training = joint_training(tmp_path, config, loop)
    start = fresh_networks()[0]
    training.train()
    trained = training.plain_model().autoencoder
    assert torch.equal(trained.quantize.embedding.weight, start.quantize.embedding.weight)
    for part in ("encoder", "quant_conv_list", "post_quant_conv_list", "decoder"):
        pairs = zip(
            getattr(trained, part).parameters(), getattr(start, part).parameters(), strict=True
        )
        assert any(not torch.equal(a, b) for a, b in pairs), part
    assert hard_bits_per_token(training) < 1.0


def test_a_resumed_joint_run_equals_an_uninterrupted_one(joint_training, tmp_path):
    """With dropout, and with an adversary that has joined before the interruption."""
    whole = joint_training(tmp_path / "whole")
    whole.train()
    parts = joint_training(tmp_path / "parts")
    for _ in range(4):
        parts._update()
    parts.save()
    torch.manual_seed(99)
    resumed = joint_training(tmp_path / "parts")
    assert resumed.step == 4
    resumed.train()
    assert_same(resumed.state(), whole.state())
    with pytest.raises(ValueError, match=r"other options \(.*rate_weight"):
        joint_training(tmp_path / "parts", replace(JOINT, rate_weight=2.0))


def test_the_adversary_joins_at_its_step(joint_training, tmp_path):
    training = joint_training(tmp_path)
    untrained = training.state()["adversary"]["network"]["layers.0.weight"].clone()
    for step in range(4):
        _, parts = training._update()
        assert ("adversarial" in parts and "discriminator" in parts) == (step >= 2)
        now = training.state()["adversary"]["network"]["layers.0.weight"]
        assert torch.equal(now, untrained) == (step < 2)


@pytest.mark.usefixtures("fresh_accelerator")
def test_bf16_trains_too(joint_training, tmp_path):
    training = joint_training(tmp_path, loop=replace(LOOP, mixed_precision="bf16"))
    _, parts = training._update()
    assert all(np.isfinite(float(p.detach())) for p in parts.values())


def test_export_writes_both_networks_and_the_codec_reads_the_folder(
    entropy_training, data, tmp_path
):
    run, out = tmp_path / "run", tmp_path / "model"
    entropy_training(run).train()
    report = export_model(run, out, data=data, entropy_dtype=torch.float16)
    strides = load_networks(run).autoencoder.params.strides
    uniform = sum(5 / stride**2 for stride in strides)
    assert 0 < report.predicted_bits_per_pixel <= 1.001 * uniform
    codec = ImageCodec.from_pretrained(out)
    assert codec.entropy_model is not None
    parts = json.loads((out / "config.json").read_text())["parts"]
    assert set(parts) == {"model.safetensors", "entropy", "entropy-int8"}
    image = np.zeros((40, 50, 3), np.uint8)
    assert codec.decode(codec.encode(image)).shape == image.shape
    exported, trained = load_networks(out), load_networks(run)
    stored = trained.entropy_model.half().float().state_dict()
    assert_same(exported.entropy_model.state_dict(), stored)
    # In full precision nothing is rounded.
    export_model(run, tmp_path / "full", data=data)
    full = MaskedEntropyModel.from_pretrained(tmp_path / "full" / "entropy")
    assert_same(full.state_dict(), load_networks(run).entropy_model.state_dict())


def test_a_frozen_codec_keeps_its_tables_and_so_its_digest(entropy_training, data, tmp_path):
    entropy_training(tmp_path / "first").train()
    export_model(tmp_path / "first", tmp_path / "model", data=data)
    codec, _ = load_networks(tmp_path / "model")
    assert has_index_cdfs(codec)  # measured: the run began with uniform ones
    further = entropy_training(tmp_path / "second", autoencoder=codec)
    further.train()
    export_model(tmp_path / "second", tmp_path / "again", data=data, max_images=1)
    assert load_networks(tmp_path / "again").autoencoder.digest() == codec.digest()


def test_crops_that_do_not_fit_are_refused(entropy_training, tmp_path):
    config = EntropyTrainingConfig(crops=CropConfig(crop_size=40))
    with pytest.raises(ValueError, match="crop_size must be a multiple of 16"):
        entropy_training(tmp_path, config=config)


AWARE_ENTROPY = replace(ENTROPY, quantization_aware=True)
AWARE_JOINT = replace(JOINT, quantization_aware=True)


@pytest.fixture(params=["entropy", "joint"])
def either_stage(request, entropy_training, joint_training):
    """Makes a training of one stage, quantisation-aware or not."""

    def make(run, aware, loop=LOOP):
        if request.param == "entropy":
            return entropy_training(run, loop, AWARE_ENTROPY if aware else ENTROPY)
        return joint_training(run, AWARE_JOINT if aware else JOINT, loop)

    return make


def loss_of(training, batch):
    return float(training.loss(batch, torch.Generator())[1]["hard_bits_per_token"].detach())


@pytest.mark.parametrize("aware", [False, True])
def test_quantisation_aware_training_sees_rounded_weights_and_activations(
    either_stage, aware, tmp_path
):
    training = either_stage(tmp_path, aware)
    training._update()  # the first step calibrates
    model = training.plain_model().eval()
    assert (model.scales is not None) == aware
    batch = training.batch(range(100, 102))
    weight = model.entropy_model.transformer.output.weight
    with torch.no_grad():  # one large weight an output: beside it all others are rounded to zero
        weight.normal_(std=1e-3)
        weight[:, 0] = 10.0
        before = loss_of(training, batch)
        weight[:, 1:] *= 2
    assert (loss_of(training, batch) == before) == aware
    if aware:  # a grid so coarse that all activations are rounded to zero: all indices are alike
        with torch.no_grad():
            weight.normal_(std=1.0)
        assert loss_of(training, batch) != pytest.approx(5, abs=0.01)
        model.scales.output_input = 100.0
        assert loss_of(training, batch) == pytest.approx(5, abs=1e-5)


def test_a_new_model_learns_quantisation_aware(entropy_training, tmp_path):
    """From an output layer of zeros, and activations that grow out of their first grids."""
    loop = replace(LOOP, steps=60, batch_size=4, learning_rate=1e-2)
    training = entropy_training(tmp_path, loop, AWARE_ENTROPY)
    before = loss_of(training, training.batch(range(100, 116)))
    training.train()
    assert loss_of(training, training.batch(range(100, 116))) < 0.9 * before


def test_a_quantisation_aware_run_resumes_exactly_and_exports_its_grids(
    either_stage, data, tmp_path
):
    loop = replace(LOOP, steps=13, learning_rate=1e-2)  # it calibrates again before its end
    whole = either_stage(tmp_path / "whole", True, loop)
    whole.train()
    run = tmp_path / "parts"
    parts = either_stage(run, True, loop)
    for _ in range(4):
        parts._update()
    parts.save()
    first = load_scales(run)
    resumed = either_stage(run, True, loop)
    assert resumed.plain_model().scales == first
    resumed.train()
    assert_same(resumed.state(), whole.state())
    assert load_scales(run) == load_scales(tmp_path / "whole") != first
    with pytest.raises(ValueError, match="quantization_aware: True -> False"):
        either_stage(run, False, loop)

    report = export_model(run, tmp_path / "model", data=data)
    codec = ImageCodec.from_pretrained(tmp_path / "model")
    entropy_model = load_networks(run).entropy_model
    aware = QuantizationAwareEntropyModel(entropy_model, load_scales(run))
    integers = integer_model_of(aware, codec.model.quantize.codebook.detach())
    assert codec.entropy_model.digest() == integers.digest()
    assert report.predicted_bits_per_pixel > 0
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    decoded, encoded = codec.decode_indices(codec.encode(image)), codec.encode_indices(image)
    for left, right in zip(decoded, encoded, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_run_of_a_former_version_does_not_become_quantisation_aware(either_stage, tmp_path):
    training = either_stage(tmp_path, False)
    training._update()
    training.save()
    path = tmp_path / "training.json"
    options = json.loads(path.read_text())
    del options["quantization_aware"]  # former versions did not write it
    path.write_text(json.dumps(options))
    assert either_stage(tmp_path, False).step == 1
    with pytest.raises(ValueError, match="is not quantisation-aware"):
        either_stage(tmp_path, True)


@pytest.mark.usefixtures("fresh_accelerator")
def test_autocast_ends_at_the_rounded_model(joint_training, tmp_path):
    loop = replace(LOOP, mixed_precision="bf16")
    training = joint_training(tmp_path, AWARE_JOINT, loop)
    _, parts = training._update()
    assert all(np.isfinite(float(p.detach())) for p in parts.values())
    model = training.plain_model()
    windows = torch.randn(1, model.entropy_model.slice_order.num_tokens, 4)
    with training.accelerator.autocast():
        assert model.logits(windows).dtype == torch.float32
