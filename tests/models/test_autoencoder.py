# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import load_file
from tiny_codec import TINY_EFFICIENT, TINY_VQGAN
from torch.utils.flop_counter import FlopCounterMode

from genaccel.models.autoencoder import PRESETS, Autoencoder, AutoencoderParams
from genaccel.models.vqgan_backbone import VqganParams

GOLDEN = Path(__file__).parents[1] / "golden" / "rdvq_autoencoder"

both = pytest.mark.parametrize("params", [TINY_VQGAN, TINY_EFFICIENT], ids=["vqgan", "efficient"])


def count(module):
    return sum(p.numel() for p in module.parameters())


def kilo_macs_per_pixel(name):
    with torch.device("meta"):
        model = Autoencoder(PRESETS[name])
        x = torch.zeros(1, 3, 256, 256)
        with FlopCounterMode(display=False) as counter:
            latents = model.encoder(x)
            model.decoder([latent.new_zeros(latent.shape) for latent in latents])
    return counter.get_total_flops() / 2 / 256**2 / 1000


def test_paper_preset_has_the_papers_parameters():
    with torch.device("meta"):
        model = Autoencoder(PRESETS["paper"])
    assert count(model.encoder) == 70_998_016
    assert count(model.decoder) == 92_539_779
    assert count(model.quantize) == 4096 * 32
    assert model.params.strides == (64, 32, 16)


def test_small_preset_is_small_and_eight_times_cheaper():
    with torch.device("meta"):
        assert count(Autoencoder(PRESETS["small"])) <= 10_000_000
    paper, small = kilo_macs_per_pixel("paper"), kilo_macs_per_pixel("small")
    assert 2900 < paper < 3200  # 1068 + 1949 by the authors' layers
    assert small * 8 <= paper


def golden_model():
    backbone = VqganParams(
        base_channels=32, channel_multipliers=(1, 1, 2, 1, 1, 1, 1), latent_channels=32
    )
    model = Autoencoder(AutoencoderParams(codebook_size=128, codebook_dim=8, backbone=backbone))
    tensors = load_file(GOLDEN / "model_autoencoder.safetensors")
    tensors |= load_file(GOLDEN / "model_quantizer_predictor.safetensors")
    own = set(model.state_dict())
    result = model.load_state_dict({k: v for k, v in tensors.items() if k in own}, strict=False)
    assert result.missing_keys == ["index_cdfs"]
    case = load_file(GOLDEN / "case_a.safetensors")
    return model, case, (case["image_u8"].float() / 255 - 0.5) / 0.5


@pytest.mark.golden
def test_vqgan_backbone_computes_what_the_authors_code_computes():
    model, case, x = golden_model()
    model.eval()
    with torch.no_grad():
        latents = model.encoder(x)
        indices = model.encode(x)
    for i, latent in enumerate(latents):
        torch.testing.assert_close(latent, case[f"enc_s{i + 1}"], atol=1e-4, rtol=0)
    flat = torch.cat([index_map.flatten(1) for index_map in indices], dim=1)  # [1, 336]
    sure = case["index_margin"] > 1e-4
    assert int(sure.sum()) > 300
    assert torch.equal(flat[sure], case["indices"][sure])
    exact = [
        part.view(1, size, size)
        for part, size in zip(case["indices"].split([16, 64, 256], dim=1), (4, 8, 16), strict=True)
    ]
    with torch.no_grad():
        reconstruction = model.decode(exact)
    torch.testing.assert_close(reconstruction, case["x_hat_raw"], atol=1e-4, rtol=0)


@pytest.mark.golden
def test_training_loss_and_gradients_are_the_authors():
    model, case, x = golden_model()
    output = model(x)
    loss = (
        functional.mse_loss(output.reconstruction, x)
        + output.codebook_loss
        + 0.25 * output.commitment_loss
    )
    loss.backward()
    torch.testing.assert_close(loss.detach().view(1), case["train_loss"], atol=1e-4, rtol=0)
    gradients = {n: p.grad for n, p in model.named_parameters()}
    names = [k.removeprefix("train_grad_") for k in case if k.startswith("train_grad_")]
    assert len(names) == 5
    for name in names:
        expected = case[f"train_grad_{name}"]
        tolerance = 1e-3 * float(expected.abs().max())
        torch.testing.assert_close(gradients[name], expected, atol=tolerance, rtol=0)


@both
def test_encode_gives_one_map_per_stride_and_decode_gives_the_image_size(params):
    model = Autoencoder(params).eval()
    indices = model.encode(torch.rand(2, 3, 48, 80) * 2 - 1)
    assert [tuple(m.shape) for m in indices] == [(2, 48 // s, 80 // s) for s in params.strides]
    assert model.decode(indices).shape == (2, 3, 48, 80)


@both
def test_forward_equals_encode_then_decode(params):
    model = Autoencoder(params).eval()
    x = torch.rand(1, 3, 32, 64) * 2 - 1
    with torch.no_grad():
        output = model(x)
        for a, b in zip(output.indices, model.encode(x), strict=True):
            assert torch.equal(a, b)
        torch.testing.assert_close(output.reconstruction, model.decode(output.indices))


@both
def test_gradients_reach_every_parameter(params):
    model = Autoencoder(params)
    # Residual branches start at zero, which hides what is behind them: move off that point.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    output = model(torch.rand(2, 3, 32, 32) * 2 - 1)
    (
        output.reconstruction.square().mean() + output.codebook_loss + output.commitment_loss
    ).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_halo_makes_a_tile_equal_to_the_whole_image():
    model = Autoencoder(TINY_EFFICIENT).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    halo, stride = model.params.halo, model.params.alignment
    x = torch.rand(1, 3, stride, 2 * halo + 4 * stride, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        whole = model.encoder(x)
        tile = model.encoder(x[..., stride:])
        image = model.decoder(whole)
        part = model.decoder(
            [
                latent[..., stride // s :]
                for latent, s in zip(whole, model.params.strides, strict=True)
            ]
        )
    for a, b, s in zip(whole, tile, model.params.strides, strict=True):
        torch.testing.assert_close(
            a[..., (stride + halo) // s :], b[..., halo // s :], atol=1e-12, rtol=0
        )
    torch.testing.assert_close(image[..., stride + halo :], part[..., halo:], atol=1e-12, rtol=0)


@both
def test_save_and_load_give_the_same_model(params, tmp_path):
    model = Autoencoder(params)
    model.save_pretrained(tmp_path)
    loaded = Autoencoder.from_pretrained(tmp_path)
    assert loaded.params == params
    assert not loaded.training
    assert loaded.digest() == model.digest()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    for a, b in zip(model.half().float().eval().encode(x), loaded.encode(x), strict=True):
        assert torch.equal(a, b)


def test_digest_tells_models_apart():
    model = Autoencoder(TINY_EFFICIENT)
    before = model.digest()
    with torch.no_grad():
        model.decoder.conv_out.bias += 1
    assert model.digest() != before


def test_from_pretrained_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Autoencoder.from_pretrained(tmp_path)
    Autoencoder(TINY_EFFICIENT).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        config.replace('"codebook_size": 32', '"codebook_size": 64')
    )
    with pytest.raises(ValueError, match="do not fit"):
        Autoencoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"efficient"', '"unheard-of"'))
    with pytest.raises(ValueError, match="backbone type must be one of"):
        Autoencoder.from_pretrained(tmp_path)


@both
def test_params_survive_json(params):
    assert AutoencoderParams.from_dict(params.to_dict()) == params


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 33, 32), "multiples of 16, got 33x32"),
        ((1, 3, 0, 32), "got 0x32"),
        ((1, 1, 32, 32), r"\[B, 3, H, W\]"),
        ((3, 32, 32), r"\[B, 3, H, W\]"),
    ],
)
def test_encode_refuses_other_shapes(shape, message):
    with pytest.raises(ValueError, match=message):
        Autoencoder(TINY_EFFICIENT).encode(torch.zeros(shape))


def test_decode_refuses_what_does_not_fit():
    model = Autoencoder(TINY_EFFICIENT).eval()
    indices = model.encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="2 maps"):
        model.decode(indices[:1])
    with pytest.raises(ValueError, match="one image size"):
        model.decode([indices[0], indices[1][:, :2]])
    with pytest.raises(ValueError, match=r"\[0, 32\)"):
        model.decode([indices[0], indices[1] + 32])


def test_uniform_tables_cover_the_alphabet():
    model = Autoencoder(TINY_EFFICIENT)
    assert model.index_cdfs.shape == (2, 33)
    assert torch.equal(model.index_cdfs[:, -1], torch.full((2,), 65536, dtype=torch.int32))
    assert bool((model.index_cdfs.diff(dim=1) == 2048).all())


def test_rows_of_the_codebook_are_used_normalised():
    model = Autoencoder(TINY_VQGAN)
    with torch.no_grad():
        model.quantize.embedding.weight.mul_(3)
    torch.testing.assert_close(
        model.quantize.codebook, functional.normalize(model.quantize.embedding.weight, dim=1)
    )
