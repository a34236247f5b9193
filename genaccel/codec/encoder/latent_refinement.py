# SPDX-License-Identifier: Apache-2.0
"""Refines an image's features by gradient descent, so that its picture and its file get better together.

One pass of the encoder network gives every image features that are good on average. For one image there are better
ones, and the decoder, which reads indices however they were chosen, need not know (content-adaptive optimisation:
Campos et al., arXiv:1906.01223; Yang et al., arXiv:2006.04240). Here, per step:

    features -> cheapest code words -> decoder network -> squared error and ST-LPIPS
        `---- relaxed assignment ----> bits, by the entropy model's logits

Gradients pass the quantiser straight through, and reach the rate by the relaxed assignment (RDVQ, equation 6). The
logits are those of the indices of a few steps ago: the integer entropy model, which has no gradient, need not run in
each. All of this is floating point, and need not be the same on two machines.

Large images go piece by piece: each core with a margin of the image around it, which stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from genaccel import ops
from genaccel.codec.coding.entropy_index_coder import EntropyIndexCoder
from genaccel.codec.coding.window_grid import PADDING_INDEX
from genaccel.codec.encoder.rate_distortion_quantizer import cheapest
from genaccel.codec.format.limits import check_time
from genaccel.codec.tiling import Span, cut
from genaccel.errors import OptionError
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_entropy_model import WINDOWS_AT_ONCE
from genaccel.models.st_lpips import StLpips

# Images of at most this many pixels are refined whole, others in cores of at most that side.
WHOLE_PIXELS = 640 * 640
_CORE_SIDE = 512
_MARGIN = 64  # pixels around a core; the small decoder sees 60 beyond a token
# Measured at 640x427 with the small preset: 4,060, in the decoder and in the network of ST-LPIPS on a quarter.
_BYTES_PER_PIXEL = 4300
# Steps between runs of the entropy model.
_STEPS_OF_TABLES = 3
# Sides of a part that ST-LPIPS judges, in pixels; and of any picture that it does.
_SMALLEST_PART = 64
_SMALLEST_JUDGED = 32
# The price of a bit that the weight of the rate goes with.
RATE_MU = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinementSettings:
    """Weights of the refinement's loss, and settings of its optimiser.

    The squared error weighs ten times as much beside ST-LPIPS as in training. With the weights of training ST-LPIPS halved
    and PSNR fell by 2 dB: the features found patterns that only that one network likes. With these weights, and small
    steps, PSNR and SSIMULACRA 2 rise too (``bench/rdvq.py``).

    Attributes:
        mse: Weight of the mean squared error, on images in [-1, 1].
        perceptual: Weight of ST-LPIPS (vgg).
        rate: Weight of the relaxed rate in bits per pixel, times mu over :data:`RATE_MU`.
        learning_rate: Learning rate of Adam, on unit vectors; it falls to 0 along a cosine.
        temperature: Temperature of the relaxed assignment.
    """

    mse: float = 30.0
    perceptual: float = 3.0
    rate: float = 1.3
    learning_rate: float = 0.005
    temperature: float = 0.1


# Called with the steps that are done, and how many there are.
StepReport = Callable[[int, int], None]


def refinement_bytes(height: int, width: int) -> int:
    """Estimate of the working memory in bytes for an image of so many pixels, padding included."""
    side = _CORE_SIDE + 2 * _MARGIN
    return _BYTES_PER_PIXEL * (
        height * width if height * width <= WHOLE_PIXELS else min(height, side) * min(width, side)
    )


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Treat parameters as constants within the ``with``, so that no gradients of theirs are computed."""
    changed = [p for p in module.parameters() if p.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


def _cores(length: int, window: int, alignment: int, *, whole: bool) -> list[Span]:
    """Cores of whole windows along an axis of so many pixels; the last may end in a part of one."""
    core_side = length + window if whole else _CORE_SIDE
    return cut(length, core_side, _MARGIN, alignment, cell=window)


class _Target:
    """The picture that a decoded one is compared with, and the distance between them.

    The network of ST-LPIPS takes most of the time of a step: it judges a quarter of the picture per step, and keeps the
    original's features of each. At equal time, more such steps are better than fewer with a larger part.
    """

    def __init__(self, metric: StLpips, original: Tensor) -> None:
        self._metric = metric
        self._original = original  # [1, 3, H, W] in [-1, 1]
        height, width = original.shape[2:]
        self._parts = [(slice(None), slice(None))]
        if min(height, width) >= 2 * _SMALLEST_PART:
            rows = slice(0, -(-height // 2)), slice(height // 2, height)
            columns = slice(0, -(-width // 2)), slice(width // 2, width)
            self._parts = [(rows[i], columns[j]) for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
        self._features: dict[int, list[Tensor]] = {}

    def distance(self, picture: Tensor, step: int, settings: RefinementSettings) -> Tensor:
        """Weighted sum of squared error and ST-LPIPS, a scalar; of tiny pictures the squared error alone."""
        squared = settings.mse * functional.mse_loss(picture, self._original)
        if min(picture.shape[2:]) < _SMALLEST_JUDGED:
            return squared
        place = step % len(self._parts)
        rows, columns = self._parts[place]
        if place not in self._features:
            with torch.no_grad():
                original = self._original[:, :, rows, columns]
                self._features[place] = self._metric.features(original)
        features = self._metric.features(picture[:, :, rows, columns])
        perceptual = self._metric.distance(features, self._features[place]).mean()
        return squared + settings.perceptual * perceptual


class LatentRefiner:
    """Refines features of images for one codec.

    Args:
        model: The autoencoder that the features belong to, on the device to use.
        coder: The coder with the entropy model that files are coded with, on the same device.
        settings: Weights of the loss, and of the optimiser.

    Raises:
        OptionError: If the weights of ST-LPIPS are not installed.
    """

    def __init__(
        self,
        model: Autoencoder,
        coder: EntropyIndexCoder,
        settings: RefinementSettings = RefinementSettings(),
    ) -> None:
        self._model = model
        self._coder = coder
        self._settings = settings
        # The caller may be in inference mode, whose tensors take no part in training.
        with torch.inference_mode(False), torch.no_grad():
            self._codebook = model.quantize.codebook.float()  # [K, C] unit vectors
            try:
                metric = StLpips.from_pretrained("vgg")
            except FileNotFoundError as error:
                raise OptionError(f"refine needs the ST-LPIPS metric: {error}") from error
            self._metric = metric.to(self._codebook.device).to(memory_format=torch.channels_last)

    def refine(
        self,
        image: Tensor,
        size: tuple[int, int],
        features: Sequence[Tensor],
        mu: float,
        steps: int,
        on_step: StepReport | None = None,
    ) -> list[Tensor]:
        """Better features of an image.

        Args:
            image: uint8 ``[H, W, 3]`` on the CPU, sides multiples of the model's alignment.
            size: Height and width of the part of it that is not padding.
            features: Features that the encoder made, ``[C, H/s, W/s]`` per stride s, coarse to fine.
            mu: Price of a bit, as for :func:`choose_indices`, which is to follow with the same one; positive.
            steps: Steps of gradient descent, for each core.
            on_step: Called with the steps that are done, and how many there are.

        Returns:
            Unit vectors of the features' shapes.
        """
        strides = self._model.params.strides
        alignment = self._model.params.alignment
        window = strides[0] * self._coder.model.slice_order.grid_sides[0]
        height, width = image.shape[:2]
        whole = height * width <= WHOLE_PIXELS
        tiles = [
            (row, column)
            for row in _cores(height, window, alignment, whole=whole)
            for column in _cores(width, window, alignment, whole=whole)
        ]
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            if on_step is not None:
                on_step(done, steps * len(tiles))

        device = self._codebook.device
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            _without_gradients(self._model),
        ):
            maps = [
                functional.normalize(f.detach().clone().float().to(device), dim=0) for f in features
            ]
            for row, column in tiles:
                shown = image[
                    row.start : min(row.stop, size[0]), column.start : min(column.stop, size[1])
                ]
                original = shown.to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
                self._refine_core(maps, strides, row, column, original, mu, steps, count)
        return maps

    def _refine_core(
        self,
        maps: list[Tensor],
        strides: Sequence[int],
        row: Span,
        column: Span,
        original: Tensor,
        mu: float,
        steps: int,
        count: Callable[[], None],
    ) -> None:
        """Replace a core of ``maps`` by better features."""
        settings = self._settings
        regions = [
            m[:, row.start // s : row.stop // s, column.start // s : column.stop // s]
            for m, s in zip(maps, strides, strict=True)
        ]
        cores = [
            (
                slice((row.core_start - row.start) // s, (row.core_stop - row.start) // s),
                slice(
                    (column.core_start - column.start) // s, (column.core_stop - column.start) // s
                ),
            )
            for s in strides
        ]
        # Code words of the margin, which stay.
        around = [self._codebook[self._nearest(region)].permute(2, 0, 1) for region in regions]
        moving = [
            region[:, rows, columns].clone().requires_grad_(True)
            for region, (rows, columns) in zip(regions, cores, strict=True)
        ]
        grid = self._coder.grid([tuple(m.shape[-2:]) for m in moving])
        inside = (~grid.padded()).to(self._codebook.device)
        target = _Target(self._metric, original)
        optimizer = torch.optim.Adam(moving, lr=settings.learning_rate, betas=(0.9, 0.99))
        pixels = original.shape[2] * original.shape[3]
        rate_weight = settings.rate * mu / RATE_MU / pixels
        fraction_bits = self._coder.model.params.fraction_bits
        with torch.no_grad():
            indices = grid.cut([self._nearest(m)[None] for m in moving], fill=PADDING_INDEX)
        for step in range(steps):
            check_time()
            optimizer.param_groups[0]["lr"] = (
                settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
            unit = [functional.normalize(m, dim=0) for m in moving]
            rows_inside = grid.cut([u[None] for u in unit])[inside]  # [N, C]
            with torch.no_grad():
                if step % _STEPS_OF_TABLES == 0:
                    logits = self._logits(indices, inside)  # [N, K]
                    nats = logits.float() * (math.log(2) * 2.0**-fraction_bits)
                indices[inside] = cheapest(rows_inside, logits, self._codebook, mu, fraction_bits)
                chosen = [self._codebook[m[0]].permute(2, 0, 1) for m in grid.merge(indices)]
            codes = []
            for region, (rows, columns), u, word in zip(around, cores, unit, chosen, strict=True):
                code = region.clone()
                code[:, rows, columns] = u + (word - u).detach()  # straight through
                codes.append(code[None])
            picture = self._model.synthesise(codes)[..., : original.shape[2], : original.shape[3]]
            _, bits = ops.soft_cross_entropy(
                rows_inside, self._codebook, nats, settings.temperature
            )
            loss = target.distance(picture, step, settings) + rate_weight * bits.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            count()
        with torch.no_grad():
            for region, (rows, columns), m in zip(regions, cores, moving, strict=True):
                region[:, rows, columns] = functional.normalize(m, dim=0)

    def _nearest(self, features: Tensor) -> Tensor:
        """Indices ``[h, w]``, int64, of the code words nearest to unit vectors ``[C, h, w]``."""
        flat = features.detach().flatten(1).T.contiguous()  # [N, C]
        return ops.nearest_code(flat, self._codebook)[1].view(features.shape[1:])

    def _logits(self, indices: Tensor, inside: Tensor) -> Tensor:
        """int32 ``[N, K]`` of the tokens inside, for the indices ``[W, L]`` of windows."""
        model = self._coder.model
        windows = zip(indices.split(WINDOWS_AT_ONCE), inside.split(WINDOWS_AT_ONCE), strict=True)
        return torch.cat([model(part)[kept] for part, kept in windows])
