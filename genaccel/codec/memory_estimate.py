# SPDX-License-Identifier: Apache-2.0
"""Estimates of the working memory of a codec's networks, to refuse an image before anything of its size is allocated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genaccel.codec.tiling import Tiling
from genaccel.models.autoencoder import Autoencoder, AutoencoderParams
from genaccel.models.integer_entropy_model import IntegerEntropyModel

# A residual block keeps its input, two intermediates and an output, and convolutions reorder what they read and
# write; measured: 335 bytes per pixel where the largest tensor of the small preset takes 64.
_LIVE_ACTIVATIONS = 6


@torch.inference_mode()
def activation_bytes_per_pixel(model: Autoencoder) -> float:
    """Estimate of a model's working memory in bytes per image pixel.

    The largest output of any layer, times the number of such tensors that are alive at once; found by running
    the smallest image through the model.
    """
    side = model.params.alignment
    largest = 0

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    hooks = [module.register_forward_hook(note) for module in leaves]
    try:
        model.decode(model.encode(torch.zeros(1, 3, side, side, device=model.index_cdfs.device)))
    finally:
        for hook in hooks:
            hook.remove()
    return 4 * _LIVE_ACTIVATIONS * largest / side**2


def coding_bytes(
    padded_size: tuple[int, int],
    params: AutoencoderParams,
    tiling: Tiling,
    activation_bytes: float,
    entropy_bytes: int,
) -> int:
    """Estimate of the working memory in bytes for one image.

    Args:
        padded_size: Height and width in pixels, with padding.
        params: Params of the autoencoder.
        tiling: How the image is cut.
        activation_bytes: Bytes per pixel, from :func:`activation_bytes_per_pixel`.
        entropy_bytes: Bytes of the entropy model for all windows.
    """
    height, width = padded_size
    pixels = height * width
    tokens = sum(pixels // s**2 for s in params.strides)
    # Image and padded copy at 3 bytes, tokens as int32 twice, two float bands across the image.
    band_rows = min(height, tiling.tile_size + 2 * tiling.margin)
    whole = 6 * pixels + 8 * tokens + 24 * band_rows * width
    tiles = tiling.peak_pixels(height, width, params.alignment) * activation_bytes
    return int(whole + max(tiles, entropy_bytes))  # one after the other


def entropy_bytes_per_window(model: IntegerEntropyModel) -> int:
    """Estimate of an entropy model's working memory in bytes per window of the image."""
    params, order = model.params.entropy, model.slice_order
    caches = 2 * params.layers * order.num_tokens * params.width
    # Two tables of about sqrt(K) entries, indices, and the features of rate-distortion optimised quantisation.
    per_token = 2 * 4 * (2 * int(params.codebook_size**0.5) + 2) + 4 * 8 + 8 * params.codebook_dim
    step = 16 * max(order.slice_sizes) * params.codebook_size  # logits and costs of a slice
    return caches + order.num_tokens * per_token + step
