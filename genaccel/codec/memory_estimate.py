# SPDX-License-Identifier: Apache-2.0
"""Estimates of the working memory of a codec's networks, to refuse an image before anything of its size is allocated."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genaccel.codec.tiling import Tiling
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_entropy_model import IntegerEntropyModel

# Tensors of the largest size that are alive at once, as measured (bench/large_image.py): in an encoder, in what a decoder
# computes at once, and in the strips of its last layers.
_LIVE_IN_ENCODER, _LIVE_IN_DECODER, _LIVE_IN_STRIP = 6, 4.5, 4.5
# What the allocator keeps of freed memory differs from run to run, by a tenth and more.
_ALLOCATOR = 1.1


class ActivationBytes(NamedTuple):
    """Estimates of a model's working memory in bytes per pixel.

    Attributes:
        encoder: Of a tile that is encoded.
        decoder: Of a tile that is decoded.
        strip: Of a strip of it, in which the last layers run; 0 where all rows are computed at once.
    """

    encoder: float
    decoder: float
    strip: float


@torch.inference_mode()
def activation_bytes_per_pixel(model: Autoencoder) -> ActivationBytes:
    """Estimate a model's working memory.

    The largest output of any layer, times the number of such tensors that are alive at once; found by running
    the smallest image through the model.
    """
    side = model.params.alignment
    last_layers = ("decoder.tail.", "decoder.conv_out")
    largest = {"encoder": 0, "decoder": 0, "strip": 0}

    def note(part: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            largest[part] = max(largest[part], output.numel())

    hooks = []
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            part = "decoder" if name.startswith(("decoder.", "post_quant")) else "encoder"
            if model.params.backbone.strip_height and name.startswith(last_layers):
                part = "strip"
            hooks.append(module.register_forward_hook(partial(note, part)))
    try:
        model.decode(model.encode(torch.zeros(1, 3, side, side, device=model.index_cdfs.device)))
    finally:
        for hook in hooks:
            hook.remove()
    # Without strips, layers at full resolution are no different from the encoder's.
    live = _LIVE_IN_DECODER if model.params.backbone.strip_height else _LIVE_IN_ENCODER
    return ActivationBytes(
        encoder=4 * _LIVE_IN_ENCODER * largest["encoder"] / side**2,
        decoder=4 * live * largest["decoder"] / side**2,
        strip=4 * _LIVE_IN_STRIP * largest["strip"] / side**2,
    )


def _cache_bytes(model: IntegerEntropyModel, tokens: int) -> int:
    params = model.params.entropy
    return 2 * params.layers * tokens * params.width


def entropy_decoding_bytes(model: IntegerEntropyModel, num_windows: int) -> int:
    """Estimate of an entropy model's working memory in bytes while so many windows are decoded."""
    order = model.slice_order
    finest = order.slice_starts[order.scale_starts[-2]]  # tokens before the finest scale
    caches = _cache_bytes(model, order.num_tokens) + _cache_bytes(model, finest)  # as they grow
    indices = 4 * 8 * order.num_tokens  # ordered and merged
    return int(_ALLOCATOR * num_windows * (caches + indices))


def entropy_encoding_bytes(model: IntegerEntropyModel, num_windows: int) -> int:
    """Estimate of an entropy model's working memory in bytes while so many windows are encoded."""
    params, order = model.params.entropy, model.slice_order
    # Two tables of about sqrt(K) entries, a quarter of them twice, indices, and features of rate-distortion optimisation.
    per_token = 10 * (int(params.codebook_size**0.5) + 1) + 4 * 8 + 8 * params.codebook_dim
    return num_windows * order.num_tokens * per_token


class MemoryEstimate:
    """Estimates of the working memory for one image, model weights apart.

    Args:
        model: The autoencoder.
        entropy_model: The entropy model, if there is one.
        tiling: How images are cut.
    """

    def __init__(
        self, model: Autoencoder, entropy_model: IntegerEntropyModel | None, tiling: Tiling
    ) -> None:
        self._params = model.params
        self._entropy_model = entropy_model
        self._tiling = tiling
        self._activations = activation_bytes_per_pixel(model)

    def _tile(self, height: int, width: int) -> tuple[int, int]:
        return self._tiling.largest_tile(height, width, self._params.alignment)

    def _num_windows(self, model: IntegerEntropyModel, height: int, width: int) -> int:
        side = model.slice_order.grid_sides[0] * self._params.alignment
        return -(-height // side) * -(-width // side)

    def encoding_bytes(self, height: int, width: int) -> int:
        """Bytes for encoding an image of this size in pixels, with padding."""
        rows, columns = self._tile(height, width)
        # The padded copy; what tables leave between them on the heap, the system does not get back.
        needed = 3 * height * width + rows * columns * self._activations.encoder
        if self._entropy_model is not None:
            windows = self._num_windows(self._entropy_model, height, width)
            needed += entropy_encoding_bytes(self._entropy_model, windows)
        return int(needed)

    def decoding_bytes(self, height: int, width: int) -> int:
        """Bytes for decoding an image of this size in pixels, with padding."""
        rows, columns = self._tile(height, width)
        strip = min(rows, self._params.backbone.strip_height or 0)
        # A float band across the image, the same as bytes, what the next band takes over, the tile, and the network.
        band = 15 * rows * width + 24 * (self._tiling.margin if rows < height else 0) * width
        pixels = band + rows * columns * (12 + self._activations.decoder)
        pixels += strip * columns * self._activations.strip
        entropy_bytes = 0
        if self._entropy_model is not None:
            windows = self._num_windows(self._entropy_model, height, width)
            entropy_bytes = entropy_decoding_bytes(self._entropy_model, windows)
        return int(3 * height * width + max(pixels, entropy_bytes))  # one after the other
