# SPDX-License-Identifier: Apache-2.0
import argparse
import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genaccel.codec.coding.window_grid import WindowGrid
from genaccel.codec.training.convert_rdvq import DRIFT_WARNING, ENTROPY_FOLDER, convert_rdvq
from genaccel.errors import UnknownModelError
from genaccel.models.autoencoder import Autoencoder, AutoencoderParams
from genaccel.models.masked_entropy_model import (
    MaskedEntropyModel,
    MaskedEntropyParams,
    code_length_bits,
)
from genaccel.models.vqgan_backbone import VqganParams

GOLDEN = Path(__file__).parents[1] / "golden"
# Of the fixtures' descriptions.
FEATURE_TOLERANCE, LOGIT_TOLERANCE = 1e-4, 5e-4

SMALL = {
    "autoencoder_params": AutoencoderParams(
        codebook_size=128,
        codebook_dim=8,
        backbone=VqganParams(
            base_channels=32, channel_multipliers=(1, 1, 2, 1, 1, 1, 1), latent_channels=32
        ),
    ),
    "entropy_params": MaskedEntropyParams(
        codebook_size=128, codebook_dim=8, width=96, layers=2, heads=4, feed_forward_width=256
    ),
}


@pytest.fixture(scope="module")
def small_state():
    """The fixture's weights under the authors' names."""
    folder = GOLDEN / "rdvq_autoencoder"
    state = load_file(folder / "model_autoencoder.safetensors")
    return state | load_file(folder / "model_quantizer_predictor.safetensors")


@pytest.fixture
def save(tmp_path):
    """Writes a checkpoint and gives its path."""

    def write(content):
        path = tmp_path / "checkpoint.pt"
        torch.save(content, path)
        return path

    return write


@torch.no_grad()
def reproduce(folder, case):
    """Everything that a fixture of one 256x256 picture holds, from a converted folder."""
    autoencoder = Autoencoder.from_pretrained(folder)
    entropy = MaskedEntropyModel.from_pretrained(folder / ENTROPY_FOLDER)
    x = (case["image_u8"].float() / 255 - 0.5) / 0.5
    latents = autoencoder.encoder(x)
    maps = autoencoder.encode(x)
    grid = WindowGrid(
        map_shapes=tuple(tuple(m.shape[1:]) for m in maps),
        grid_sides=entropy.slice_order.grid_sides,
    )
    indices = grid.cut(maps)
    sure = case["index_margin"] > 1e-4
    assert int(sure.sum()) > 300
    assert torch.equal(indices[sure], case["indices"][sure])
    exact = grid.merge(case["indices"])
    logits = entropy(grid.cut([autoencoder.quantize.lookup(m) for m in exact]))
    bits = code_length_bits(logits, case["indices"])
    torch.testing.assert_close(bits, case["bits_hard"], atol=LOGIT_TOLERANCE, rtol=0)
    return latents, logits, autoencoder.decode(exact)


@pytest.mark.golden
def test_converted_checkpoint_reproduces_the_authors_numbers(small_state, save, tmp_path):
    checkpoint = save(
        {"model": small_state, "steps": 7, "args": argparse.Namespace(lr=1e-4, tags=["a"])}
    )
    report = convert_rdvq(checkpoint, tmp_path / "out", **SMALL)
    assert report.autoencoder_parameters + report.entropy_parameters == sum(
        tensor.numel() for name, tensor in small_state.items() if not name.endswith("_used")
    )
    assert report.ignored == ("steps", "args", "model.quantize.codebook_used")
    assert report.notes == (DRIFT_WARNING,)
    case = load_file(GOLDEN / "rdvq_autoencoder" / "case_a.safetensors")
    latents, logits, image = reproduce(report.folder, case)
    for i, latent in enumerate(latents):
        torch.testing.assert_close(latent, case[f"enc_s{i + 1}"], atol=FEATURE_TOLERANCE, rtol=0)
    torch.testing.assert_close(
        logits[:, case["token_ids"]], case["logits_tokens"], atol=LOGIT_TOLERANCE, rtol=0
    )
    torch.testing.assert_close(image, case["x_hat_raw"], atol=FEATURE_TOLERANCE, rtol=0)


def test_nothing_is_rounded(small_state, save, tmp_path):
    convert_rdvq(save({"model": small_state}), tmp_path / "out", **SMALL)
    for folder, name in (("", "encoder.conv_in.weight"), (ENTROPY_FOLDER, "input_proj.weight")):
        stored = load_file(tmp_path / "out" / folder / "model.safetensors")[name]
        original = small_state[name if not folder else f"quantize.condition_entropy_small.{name}"]
        assert torch.equal(stored, original)


def without(state, *names):
    return {k: v for k, v in state.items() if not k.startswith(names)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: without(s, "decoder.conv_out.bias"),
            "1 tensors are missing: decoder.conv_out.b",
        ),
        (lambda s: without(s, "quantize.condition"), "no whole entropy model .*21 tensors are"),
        (lambda s: s | {"discriminator.w": torch.ones(1)}, "1 tensors are not expected: discrim"),
        (
            lambda s: s | {"encoder.conv_in.bias": torch.ones(3)},
            r"encoder.conv_in.bias is \(3,\) instead of \(32,\)",
        ),
        (
            lambda s: s | {"encoder.conv_in.bias": torch.full((32,), math.nan)},
            "not finite",
        ),
        (lambda s: s | {"encoder.conv_in.bias": torch.ones(32).long()}, "no float tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_named(small_state, save, tmp_path, change, message):
    checkpoint = save({"model": change(small_state)})
    with pytest.raises(UnknownModelError, match=message):
        convert_rdvq(checkpoint, tmp_path / "out", **SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt"]


class Intruder:
    """Would run a command when unpickled."""

    def __reduce__(self):
        return os.mkdir, ("intruded",)


def test_files_that_run_code_are_not_opened(small_state, save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = save({"model": small_state, "args": Intruder()})
    with pytest.raises(UnknownModelError, match="no checkpoint of plain tensors"):
        convert_rdvq(checkpoint, tmp_path / "out", **SMALL)
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize("content", [{"weights": {}}, [1, 2], {"model": 3}])
def test_other_files_are_refused(save, tmp_path, content):
    with pytest.raises(UnknownModelError, match="is no RDVQ checkpoint"):
        convert_rdvq(save(content), tmp_path / "out", **SMALL)


def test_garbage_and_nothing_are_refused(tmp_path):
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    with pytest.raises(UnknownModelError, match="no checkpoint of plain tensors"):
        convert_rdvq(tmp_path / "garbage.pt", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        convert_rdvq(tmp_path / "missing.pt", tmp_path / "out")


def test_nothing_is_overwritten(small_state, save, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    convert_rdvq(save({"model": small_state}), out, **SMALL)  # an empty folder is fine
    before = (out / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="not empty"):
        convert_rdvq(save({"model": small_state}), out, **SMALL)
    assert (out / "model.safetensors").stat().st_mtime_ns == before


def test_sizes_must_belong_together(tmp_path):
    with pytest.raises(ValueError, match="one codebook"):
        convert_rdvq("x.pt", tmp_path / "out", entropy_params=SMALL["entropy_params"])


def procedural(key, shape, seed):
    """The rule by which the full-size weights are generated; its description is in the fixture's README."""
    count = math.prod(shape)
    random = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    n = random.standard_normal(count).astype(np.float32).reshape(shape)
    if key.endswith("codebook_used"):
        return np.zeros(shape, np.float32)
    if key.endswith("embedding.weight"):
        norms = np.linalg.norm(n.astype(np.float64), axis=1, keepdims=True)
        return n / norms.astype(np.float32)
    if "scale_mul_1H11" in key:
        scales = np.float32(math.log(4)) + np.float32(0.3) * n
        if ".layers.0." in key:
            scales.reshape(-1)[-1] = np.float32(math.log(150))
        return scales
    if key.endswith("start_token"):
        return np.float32(0.5) * n
    if key.endswith("bias"):
        return np.float32(0.1) * n
    if len(shape) == 1:
        return np.float32(1) + np.float32(0.2) * n
    gain = 2.5 if key.endswith("transformer.output.weight") else 1.0
    return n * np.float32(gain / math.sqrt(math.prod(shape[1:])))


@pytest.mark.slow
@pytest.mark.golden
def test_full_size_checkpoint_reproduces_the_authors_numbers(save, tmp_path):
    keys = json.loads((GOLDEN / "rdvq_keys.json").read_text())
    folder = GOLDEN / "rdvq_full_procedural"
    case, scalars = (
        load_file(folder / "full.safetensors"),
        json.loads((folder / "scalars.json").read_text()),
    )
    state = {
        key: torch.from_numpy(procedural(key, shape, scalars["seed"]))
        for key, (shape, _, _) in keys["state"].items()
    }
    for key, check in scalars["weight_checks"].items():
        values = state[key].double().flatten()
        assert values[:4].tolist() == check["first4"], key
        assert float(values.sum()) == pytest.approx(check["sum"], abs=1e-4), key
    checkpoint = save({"model": state})
    del state
    report = convert_rdvq(checkpoint, tmp_path / "out")
    checkpoint.unlink()
    parts = keys["parameters_by_part"]
    assert report.entropy_parameters == parts["entropy_model"] == 88_125_792
    total = report.autoencoder_parameters + report.entropy_parameters
    assert total == keys["parameters_total"] == 251_844_675

    latents, logits, image = reproduce(report.folder, case)
    for i, latent in enumerate(latents):
        expected = case[f"enc_s{i + 1}_first8"]
        torch.testing.assert_close(latent[:, :8], expected, atol=FEATURE_TOLERANCE, rtol=0)
    torch.testing.assert_close(
        logits[0, case["token_ids"]], case["logits_tokens"], atol=LOGIT_TOLERANCE, rtol=0
    )
    torch.testing.assert_close(
        image[:, :, ::4, ::4], case["x_hat_raw_stride4"], atol=FEATURE_TOLERANCE, rtol=0
    )
