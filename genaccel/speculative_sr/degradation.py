# SPDX-License-Identifier: Apache-2.0
"""Makes small, damaged pictures of good ones, for training: the two-order degradation of Real-ESRGAN (arXiv:2107.10833).

Blur, resize, noise and JPEG, twice, with a sinc filter at the end, which rings as sharpened pictures do. What happens to a
picture is a pure function of the stream's seed and the picture's number: it needs no order, and a run that goes on
continues with the same pictures. Filters and resizing run on the picture's device; random numbers and JPEG on the CPU.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from genaccel.training.options import SHARE, Option, check

SCALE = 4  # side of a picture over that of its degraded one

_SIDES = range(7, 22, 2)  # of blur kernels, in pixels
# Shares of the shapes of a blur kernel, and of those that are turned and stretched.
_SHAPES = ("gaussian", "generalized", "plateau")
_SHAPE_SHARES = (0.7, 0.15, 0.15)
_STRETCHED_SHARES = (0.25 / 0.7, 0.2, 0.2)
_GENERALIZED_POWERS = (0.5, 4.0)
_PLATEAU_POWERS = (1.0, 2.0)
_SINC_SHARE = 0.1
_FINAL_SINC_SHARE = 0.8
_SECOND_BLUR_SHARE = 0.8
_GREY_NOISE_SHARE = 0.4
_GAUSSIAN_NOISE_SHARE = 0.5
_RESIZE_MODES = ("area", "bilinear", "bicubic")
_JPEG_QUALITIES = (30.0, 95.0)


@dataclass(frozen=True, slots=True)
class _Order:
    """The ranges of one of the two rounds, as published.

    Attributes:
        blur: Largest deviation of a blur kernel in pixels; the least is 0.2.
        resize: Smallest and largest factor of the side.
        resize_shares: Of pictures that are enlarged, reduced and left at their size.
        gaussian: Largest deviation of Gaussian noise, of 255; the least is 1.
        poisson: Largest factor of Poisson noise; the least is 0.05.
    """

    blur: float
    resize: tuple[float, float]
    resize_shares: tuple[float, float, float]
    gaussian: float
    poisson: float


_FIRST = _Order(3.0, (0.15, 1.5), (0.2, 0.7, 0.1), 30.0, 3.0)
_SECOND = _Order(1.5, (0.3, 1.2), (0.3, 0.4, 0.3), 25.0, 2.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class DegradationConfig:
    """How much is lost.

    Args:
        strength: Of blur, noise, JPEG and resizing; 1 is Real-ESRGAN's, 0 reduces the size and does nothing else.
        clean: Share of the pictures that are only reduced, by an antialiased bicubic filter.
    """

    strength: Annotated[float, Option(name="degradation"), SHARE] = 0.5
    clean: Annotated[float, Option(name="clean_share"), SHARE] = 0.3

    def __post_init__(self) -> None:
        check(self)


class Degradation:
    """A numbered stream of degradations.

    Args:
        config: How much is lost.
        seed: Of the stream.

    Example:
        >>> degrade = Degradation(DegradationConfig(), seed=0)
        >>> degrade(torch.rand(3, 128, 128), 12).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, config: DegradationConfig, *, seed: int = 0) -> None:
        self.config, self.seed = config, seed

    def __call__(self, picture: Tensor, number: int) -> Tensor:
        """The degraded picture of that number: ``[3, H / 4, W / 4]`` in [0, 1], in steps of 1/255.

        Args:
            picture: ``[3, H, W]`` in [0, 1], with sides that are multiples of 4 and at least 16.
            number: Which one of the stream is done to it, from 0.

        Raises:
            ValueError: If the shape does not fit.
        """
        if (
            picture.ndim != 3
            or picture.shape[0] != 3
            or any(side % SCALE or side < 4 * SCALE for side in picture.shape[1:])
        ):
            raise ValueError(
                f"picture must be [3, H, W] with sides that are multiples of {SCALE} and at least {4 * SCALE}, "
                f"got {list(picture.shape)}"
            )
        # Another key than that of a stream of crops with the same seed, whose numbers say nothing about these.
        key = np.array([self.seed, 1], dtype=np.uint64)
        counter = np.array([0, 0, 0, number], dtype=np.uint64)
        random = np.random.Generator(np.random.Philox(key=key, counter=counter))
        x = picture[None].float()
        size = (picture.shape[1] // SCALE, picture.shape[2] // SCALE)
        if random.random() < self.config.clean or self.config.strength == 0:
            small = functional.interpolate(x, size, mode="bicubic", antialias=True)
        else:
            small = _Damage(random, self.config.strength, x).run(size)
        return small[0].clamp(0, 1).mul(255).round().div(255)


class _Damage:
    """The two rounds on one picture.

    Args:
        random: Draws what is done.
        strength: From 0 to 1.
        picture: ``[1, 3, H, W]``.
    """

    def __init__(self, random: np.random.Generator, strength: float, picture: Tensor) -> None:
        self._random, self._strength, self._x = random, strength, picture
        self._noise = torch.Generator().manual_seed(int(random.integers(2**62)))

    def run(self, size: tuple[int, int]) -> Tensor:
        """The picture of the size, damaged."""
        random, strength = self._random, self._strength
        full = self._x.shape[2:]
        self._blur(_FIRST)
        self._resize(_FIRST, (full[0], full[1]))
        self._add_noise(_FIRST)
        self._jpeg()
        if random.random() < _SECOND_BLUR_SHARE * strength:
            self._blur(_SECOND)
        self._resize(_SECOND, size)
        self._add_noise(_SECOND)
        jpeg_last = random.random() < 0.5
        if not jpeg_last:
            self._jpeg()
        self._resample(size)
        if random.random() < _FINAL_SINC_SHARE * strength:
            self._x = filtered(self._x, self._sinc(int(random.choice(_SIDES)), math.pi / 3))
        if jpeg_last:
            self._jpeg()
        return self._x

    def _between(self, low: float, high: float) -> float:
        return float(self._random.uniform(low, high))

    def _resample(self, size: tuple[int, int]) -> None:
        mode = str(self._random.choice(_RESIZE_MODES))
        self._x = functional.interpolate(self._x, size, mode=mode)

    def _blur(self, order: _Order) -> None:
        random = self._random
        side = int(random.choice(_SIDES))
        if random.random() < _SINC_SHARE * self._strength:
            kernel = self._sinc(side, math.pi / (3 if side < 13 else 5))
        else:
            shape = int(random.choice(len(_SHAPES), p=_SHAPE_SHARES))
            largest = 0.2 + (order.blur - 0.2) * self._strength
            deviations = [self._between(0.2, largest)] * 2
            angle = 0.0
            if random.random() < _STRETCHED_SHARES[shape]:
                deviations[1] = self._between(0.2, largest)
                angle = self._between(-math.pi, math.pi)
            powers = {
                "generalized": _GENERALIZED_POWERS,
                "plateau": _PLATEAU_POWERS,
            }.get(_SHAPES[shape])
            power = 1.0 if powers is None else self._log_centred(*powers)
            kernel = blur_kernel(side, (deviations[0], deviations[1]), angle, _SHAPES[shape], power)
        self._x = filtered(self._x, kernel)

    def _log_centred(self, low: float, high: float) -> float:
        """As often below 1 as above it."""
        below = low < 1 and self._random.random() < 0.5
        return self._between(low, 1.0) if below else self._between(1.0, high)

    def _sinc(self, side: int, lowest: float) -> Tensor:
        return sinc_kernel(side, self._between(lowest, math.pi))

    def _resize(self, order: _Order, size: tuple[int, int]) -> None:
        grow, shrink, _ = order.resize_shares
        low, high = order.resize
        way = self._random.random()
        factor = 1.0
        if way < grow:
            factor = self._between(1.0, high**self._strength)
        elif way < grow + shrink:
            factor = self._between(low**self._strength, 1.0)
        self._resample((max(4, round(size[0] * factor)), max(4, round(size[1] * factor))))

    def _add_noise(self, order: _Order) -> None:
        x = self._x.clamp(0, 1)
        is_grey = self._random.random() < _GREY_NOISE_SHARE
        if self._random.random() < _GAUSSIAN_NOISE_SHARE:
            deviation = self._strength * self._between(1.0, order.gaussian) / 255
            planes = 1 if is_grey else 3
            drawn = torch.randn((1, planes, *x.shape[2:]), generator=self._noise)
            noise = deviation * drawn
        else:
            factor = self._strength * self._between(0.05, order.poisson)
            steps = x.cpu().mul(255).round().div(255)
            if is_grey:
                weights = steps.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)
                steps = (weights * steps).sum(1, keepdim=True)
            # As many photons at white as the picture has levels, to the next power of two.
            seen = int(torch.bincount((steps * 255).round().long().flatten()).count_nonzero())
            levels = 2.0 ** math.ceil(math.log2(max(2, seen)))
            counts = torch.poisson(steps * levels, generator=self._noise)
            noise = factor * (counts / levels - steps)
        self._x = (x + noise.to(x.device)).clamp(0, 1)

    def _jpeg(self) -> None:
        low, high = (100 - (100 - quality) * self._strength for quality in _JPEG_QUALITIES)
        quality = round(self._between(low, high))
        x = self._x.clamp(0, 1).mul(255).round().byte()[0].permute(1, 2, 0).cpu().numpy()
        stream = io.BytesIO()
        Image.fromarray(x).save(stream, "JPEG", quality=quality)
        with Image.open(stream) as image:
            decoded = torch.from_numpy(np.array(image))
        self._x = decoded.permute(2, 0, 1)[None].to(self._x.device).float().div(255)


def blur_kernel(
    side: int, deviations: tuple[float, float], angle: float, shape: str, power: float
) -> Tensor:
    """A blur of ``[side, side]`` with sum 1: ``f(d)`` of the squared distance in units of the deviations.

    Args:
        side: In pixels, odd.
        deviations: Along the two axes, in pixels.
        angle: By which the axes are turned, in radians.
        shape: "gaussian", ``exp(-d / 2)``; "generalized", ``exp(-d ** power / 2)``; or "plateau",
            ``1 / (1 + d ** power)``.
        power: Of the latter two.
    """
    y, x = _grid(side)
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    distance = (along / deviations[0]) ** 2 + (across / deviations[1]) ** 2
    profile: dict[str, Callable[[Tensor], Tensor]] = {
        "gaussian": lambda d: torch.exp(-d / 2),
        "generalized": lambda d: torch.exp(-(d**power) / 2),
        "plateau": lambda d: 1 / (1 + d**power),
    }
    kernel = profile[shape](distance)
    return (kernel / kernel.sum()).float()


def sinc_kernel(side: int, cutoff: float) -> Tensor:
    """The ideal isotropic low-pass, cut to ``[side, side]``, with sum 1; it overshoots and rings at edges.

    Args:
        side: In pixels, odd.
        cutoff: Highest angular frequency that passes, up to pi.
    """
    y, x = _grid(side)
    radius = torch.sqrt(x * x + y * y)
    middle = side // 2
    radius[middle, middle] = 1.0
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[middle, middle] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()


def _grid(side: int) -> tuple[Tensor, Tensor]:
    places = torch.arange(side, dtype=torch.float64) - side // 2
    return places[:, None].expand(side, side), places[None].expand(side, side)


def filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Planes ``[B, C, H, W]`` under a kernel ``[k, k]`` of odd side that is symmetric to its middle, reflected at the borders."""
    margin = kernel.shape[0] // 2
    # A picture may be smaller than the kernel, and reflecting needs one pixel more than the margin.
    mode = "reflect" if margin < min(x.shape[2:]) else "replicate"
    planes = functional.pad(x, (margin,) * 4, mode=mode)
    # Products of spectra: kernels are large, equal turned by half a turn, and of no rank in common.
    spectrum = torch.fft.rfft2(planes) * torch.fft.rfft2(kernel.to(x), s=planes.shape[2:])
    around = torch.fft.irfft2(spectrum, s=planes.shape[2:])
    return around[..., 2 * margin :, 2 * margin :]
