# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genaccel import ops, reference
from genaccel.ops.frequency import _published_taps

GOLDEN = load_file(Path(__file__).parents[1] / "golden/pssr_fdu/pssr_fdu.safetensors")
SIZES = ["96x128", "97x131"]
# Of a picture's 256 levels.
LEVEL = 1 / 255


def natural(*shape, generator_seed=0):
    """Noise whose amplitude falls with the frequency, as in photographs; in [0, 1]."""
    generator = torch.Generator().manual_seed(generator_seed)
    noise = torch.randn(*shape, generator=generator, dtype=torch.float64)
    frequencies = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[-2:]]
    radius = torch.hypot(frequencies[0][:, None], frequencies[1][None])
    gain = torch.where(radius > 0, 1 / radius.clamp_min(1e-9), 0)
    planes = torch.fft.ifft2(torch.fft.fft2(noise) * gain).real
    return 0.5 + planes / (2 * planes.abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_reference_has_the_grid_of_the_authors(size):
    height, width = (int(side) for side in size.split("x"))
    for cutoff, order in ((0.2, 2), (0.12, 3)):
        gain = reference.butterworth_gain(height, width, cutoff, order, grid="linspace")
        expected = GOLDEN[f"{size}.lowpass_gain_fc{cutoff}_n{order}"]
        torch.testing.assert_close(torch.fft.fftshift(gain).float(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "alpha", "border"),
    [
        ("output_alpha0.6", 0.6, 2),
        ("output_alpha1.0", 1.0, 2),
        ("output_alpha0.6_border0_frame0", 0.6, 0),
    ],
)
def test_reference_reproduces_the_authors_code(size, name, alpha, border):
    actual = reference.frequency_update_by_fft(
        GOLDEN[f"{size}.consistent"],
        GOLDEN[f"{size}.sharp"],
        alpha,
        border=border,
        grid="linspace",
    )
    torch.testing.assert_close(actual, GOLDEN[f"{size}.{name}"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("alpha", [0.6, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8])
def test_operator_is_within_a_tenth_of_a_level_of_fourier_transforms(alpha, dtype, device):
    faithful, sharp = natural(1, 3, 200, 331), natural(1, 3, 200, 331, generator_seed=1)
    if dtype == torch.uint8:
        stored = [(255 * picture).round().to(dtype) for picture in (faithful, sharp)]
        exact = [picture.double() / 255 for picture in stored]
        rounding = 0.5 * LEVEL
    else:
        stored = [picture.to(dtype) for picture in (faithful, sharp)]
        exact = [picture.double() for picture in stored]
        rounding = torch.finfo(dtype).eps / 2
    actual = ops.frequency_update(
        *(picture.to(device) for picture in stored), alpha, boundary="periodic"
    ).cpu()
    expected = reference.frequency_update_by_fft(*exact, alpha)
    as_number = actual.double() / 255 if dtype == torch.uint8 else actual.double()
    assert (as_number - expected).abs().max() <= 0.1 * LEVEL + rounding


def test_mirrored_edges_differ_from_periodic_ones_at_the_edges_alone(device):
    faithful, sharp = (natural(1, 3, 90, 80, generator_seed=s).to(device) for s in (0, 1))
    mirrored = ops.frequency_update(faithful, sharp)
    periodic = ops.frequency_update(faithful, sharp, boundary="periodic")
    torch.testing.assert_close(mirrored[..., 10:-10, 10:-10], periodic[..., 10:-10, 10:-10])
    assert (mirrored - periodic).abs().max() > LEVEL


@pytest.mark.parametrize("boundary", ["mirror", "periodic"])
def test_a_picture_updated_by_itself_stays_as_it_is(boundary, device):
    picture = torch.rand(2, 3, 37, 45, dtype=torch.float64, device=device)
    actual = ops.frequency_update(picture, picture, boundary=boundary)
    torch.testing.assert_close(actual, picture, atol=1e-14, rtol=0)
    bytes_ = (255 * picture).round().to(torch.uint8)
    assert torch.equal(ops.frequency_update(bytes_, bytes_, boundary=boundary), bytes_)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_flat_picture_stays_flat(alpha, device):
    for level in (0, 1, 77, 255):
        flat = torch.full((1, 3, 50, 60), level, dtype=torch.uint8, device=device)
        assert torch.equal(ops.frequency_update(flat, flat, alpha), flat)


def test_the_result_is_linear_in_alpha(device):
    faithful, sharp = (0.3 + 0.4 * natural(1, 3, 40, 50, generator_seed=s) for s in (0, 1))
    faithful, sharp = faithful.to(device), sharp.to(device)
    at = {alpha: ops.frequency_update(faithful, sharp, alpha) for alpha in (0.0, 0.3, 1.0)}
    expected = torch.lerp(at[0.0], at[1.0], 0.3)
    torch.testing.assert_close(at[0.3], expected, atol=1e-13, rtol=0)
    luminance = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=device)
    planes = (faithful * luminance.view(1, 3, 1, 1)).sum(1)
    low = (at[0.0] * luminance.view(1, 3, 1, 1)).sum(1)
    torch.testing.assert_close(low, ops.low_pass(planes), atol=1e-13, rtol=0)


def test_the_result_scales_with_both_pictures(device):
    faithful, sharp = (natural(1, 3, 40, 50, generator_seed=s).to(device) for s in (0, 1))
    whole = ops.frequency_update(faithful, sharp, 0.7)
    # Where fine detail is far above the 1e-6 that keeps the weight finite.
    torch.testing.assert_close(
        ops.frequency_update(faithful / 2, sharp / 2, 0.7), whole / 2, atol=1e-6, rtol=0
    )


def test_colours_and_what_is_coarse_come_from_the_faithful_picture(device):
    faithful = 0.3 + 0.4 * natural(1, 3, 64, 64).to(device)
    sharp = 0.3 + 0.4 * natural(1, 3, 64, 64, generator_seed=1).to(device)
    change = ops.frequency_update(faithful, sharp) - faithful
    torch.testing.assert_close(change[:, :1].expand(-1, 3, -1, -1), change, atol=1e-14, rtol=0)
    # Slow shading and another colour of the sharp picture: next to nothing of it arrives.
    tinted = sharp + 0.1 * torch.tensor([1.0, 0.2, -0.5], device=device).view(1, 3, 1, 1)
    torch.testing.assert_close(
        ops.frequency_update(faithful, tinted),
        ops.frequency_update(faithful, sharp),
        atol=1e-12,
        rtol=0,
    )


def test_weights_say_how_much_of_the_change_is_made(device):
    faithful, sharp = (0.3 + 0.4 * natural(2, 3, 40, 50, generator_seed=s) for s in (0, 1))
    faithful, sharp = faithful.to(device), sharp.to(device)
    weight = torch.rand(2, 40, 50, dtype=torch.float64, device=device)
    weight[:, :20] = 0
    actual = ops.frequency_update(faithful, sharp, weight=weight)
    assert torch.equal(actual[:, :, :20], faithful[:, :, :20])
    whole = ops.frequency_update(faithful, sharp)
    expected = faithful + weight[:, None] * (whole - faithful)
    torch.testing.assert_close(actual, expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (7, 3), (24, 25), (3, 600)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
def test_samples_side_by_side_give_the_same_and_stay_so(size, dtype, device):
    pictures = torch.rand(2, 2, 3, *size, dtype=torch.float64, device=device)
    faithful, sharp = (
        (255 * p).round().to(dtype) if dtype == torch.uint8 else p.to(dtype) for p in pictures
    )
    weight = torch.rand(2, *size, device=device).to(
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    expected = ops.frequency_update(faithful, sharp, 0.8, weight=weight)
    side_by_side = [
        p.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for p in (faithful, sharp)
    ]
    actual = ops.frequency_update(*side_by_side, 0.8, weight=weight)
    torch.testing.assert_close(
        actual, expected, atol=1 if dtype == torch.uint8 else 1e-6, rtol=1e-2
    )
    assert actual.stride() == side_by_side[0].stride()
    mixed = ops.frequency_update(side_by_side[0], sharp, 0.8, weight=weight)
    assert torch.equal(mixed, actual)


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (60, 530)])
def test_bytes_are_rounded_results_of_the_reference(size, device):
    faithful, sharp = torch.randint(0, 256, (2, 2, 3, *size), dtype=torch.uint8)
    actual = ops.frequency_update(faithful.to(device), sharp.to(device), 0.9).cpu()
    taps = _published_taps()
    exact = [picture.double() / 255 for picture in (faithful, sharp)]
    expected = 255 * reference.frequency_update(*exact, None, taps, 0.9, False)
    # A last bit of float32 may decide between two levels that are as near.
    assert (actual - expected).abs().max() <= 0.5 + 1e-3


def test_what_is_not_finite_stays_in_its_surroundings(device):
    faithful, sharp = torch.rand(2, 1, 3, 60, 60, device=device)
    expected = ops.frequency_update(faithful, sharp)
    sharp[0, 1, 30, 30] = float("nan")
    actual = ops.frequency_update(faithful, sharp)
    assert actual[0, :, 30, 30].isnan().all()
    near = actual.isnan()
    near[..., 20:41, 20:41] = False
    assert not near.any()
    assert torch.equal(actual[..., :20, :], expected[..., :20, :])


def test_low_pass_takes_any_number_of_dimensions(device):
    x = torch.rand(2, 1, 3, 15, 14, device=device)
    actual = ops.low_pass(x)
    assert actual.shape == x.shape
    torch.testing.assert_close(actual[1, 0, 2], ops.low_pass(x[1, 0, 2]))
    torch.testing.assert_close(
        ops.low_pass(torch.ones(3, 50, device=device)), torch.ones(3, 50, device=device)
    )


@pytest.mark.parametrize("boundary", ["mirror", "periodic"])
def test_low_pass_is_its_own_adjoint(boundary, device):
    x, y = torch.randn(2, 1, 23, 31, dtype=torch.float64, device=device)
    a = (ops.low_pass(x, boundary=boundary) * y).sum()
    b = (x * ops.low_pass(y, boundary=boundary)).sum()
    torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.gradcheck
def test_gradients(device):
    faithful, sharp = (natural(1, 3, 6, 5, generator_seed=s).to(device) for s in (0, 1))
    weight = torch.rand(1, 6, 5, dtype=torch.float64, device=device)
    inputs = [t.requires_grad_() for t in (faithful, sharp, weight)]
    torch.autograd.gradcheck(lambda f, s, w: ops.frequency_update(f, s, 0.8, weight=w), inputs)
    torch.autograd.gradcheck(ops.low_pass, [faithful])
    assert torch.autograd.gradgradcheck(ops.low_pass, [faithful])


def test_wrong_arguments_are_named():
    picture = torch.rand(1, 3, 4, 5)
    for arguments, error, message in (
        ((picture[0], picture[0]), ValueError, "faithful must have 4 dimensions"),
        ((picture[:, :2], picture[:, :2]), ValueError, "faithful must have 3 channels"),
        ((picture, picture[..., :4]), ValueError, "sharp must have shape"),
        ((picture, picture.double()), TypeError, "sharp must be torch.float32"),
        ((picture.int(), picture.int()), TypeError, "faithful must be uint8"),
        ((picture, picture, float("nan")), ValueError, "alpha must be a finite number"),
        (([], picture), TypeError, "faithful must be a tensor, got list"),
    ):
        with pytest.raises(error, match=message):
            ops.frequency_update(*arguments)
    with pytest.raises(ValueError, match=r"weight must have shape \(1, 4, 5\)"):
        ops.frequency_update(picture, picture, weight=torch.ones(4, 5))
    with pytest.raises(TypeError, match=r"weight must be torch.float32"):
        ops.frequency_update(picture, picture, weight=torch.ones(1, 4, 5).double())
    with pytest.raises(ValueError, match='boundary must be "mirror" or "periodic"'):
        ops.frequency_update(picture, picture, boundary="zero")
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        ops.low_pass(torch.ones(3))
    taps = _published_taps()
    with pytest.raises(RuntimeError, match="taps must have 88 numbers"):
        torch.ops.genaccel.low_pass(picture[0], taps[:-1], False)
