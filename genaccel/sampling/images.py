# SPDX-License-Identifier: Apache-2.0
"""Images as diffusers pipelines and generators take and give them, and as uint8 ``[H, W, 3]``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from genaccel.files.images import ReadPolicy, read_image
from genaccel.files.samples import RANGE_TOLERANCE

Images = list[NDArray[np.uint8]]

_POLICY = ReadPolicy(
    remedies={
        "transparency": "put it on a background first",
        "depth": "convert it to 8-bit RGB first",
    },
)


def images_of(output: Any) -> Images:
    """Images ``[H, W, 3]`` of what a pipeline returned; the frames of videos, one by one.

    Raises:
        ValueError: If it has neither images nor frames, or :func:`to_pixels` refuses them, as it does latents.
    """
    found = getattr(output, "images", None)
    if found is None:
        found = getattr(output, "frames", None)
    if found is None:
        raise ValueError(f"{type(output).__name__} has neither images nor frames to compare")
    try:
        return to_pixels(found)
    except ValueError as error:
        raise ValueError(
            f"{error}; latents can't be compared: leave out output_type, or ask for images"
        ) from None


def to_pixels(images: Any) -> Images:
    """Images of any kind that diffusers pipelines take or give.

    Args:
        images: A PIL image, read as :func:`genaccel.files.images.read_image` reads it; an array ``[..., H, W, C]``; a tensor ``[..., C, H, W]``; or a list of these. One channel is
            grey, three are sRGB; uint8, or floating point in [0, 1].

    Returns:
        Arrays ``[H, W, 3]``, one an image.

    Raises:
        TypeError: If it is nothing of the kind.
        ValueError: If a shape or a range is another, or a PIL image is transparent, deep or damaged.
    """
    if isinstance(images, Image.Image):
        return [read_image(images, _POLICY).pixels]
    if isinstance(images, Tensor):
        if images.ndim < 3:
            raise ValueError(
                f"image tensors must be [C, H, W] or stacks of these, got {tuple(images.shape)}"
            )
        # NumPy has no bfloat16.
        wide = images.detach().float() if images.is_floating_point() else images.detach()
        return to_pixels(wide.movedim(-3, -1).cpu().numpy())
    if isinstance(images, np.ndarray):
        if images.ndim < 3:
            raise ValueError(
                f"image arrays must be [H, W, C] or stacks of these, got {images.shape}"
            )
        return [_of_array(image) for image in images.reshape(-1, *images.shape[-3:])]
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return list(itertools.chain.from_iterable(to_pixels(image) for image in images))
    raise TypeError(
        f"images must be PIL images, arrays, tensors or lists of them, got {type(images).__name__}"
    )


def from_pixels(images: Sequence[NDArray[np.uint8]], output_type: str) -> Any:
    """Images as a diffusers pipeline gives them.

    Args:
        images: ``[H, W, 3]`` each.
        output_type: ``"pil"`` for a list; ``"np"`` for float32 ``[N, H, W, 3]`` and ``"pt"`` for ``[N, 3, H, W]``, both in
            [0, 1], or a list of single ones where their sizes differ.

    Raises:
        ValueError: For another ``output_type``.
    """
    check_output_type(output_type)
    if output_type == "pil":
        return [Image.fromarray(image) for image in images]
    arrays = [image.astype(np.float32) / np.float32(255) for image in images]
    if output_type == "pt":
        tensors = [torch.from_numpy(array).movedim(-1, 0) for array in arrays]
        return torch.stack(tensors) if _are_alike(arrays) else tensors
    return np.stack(arrays) if _are_alike(arrays) else arrays


def check_output_type(output_type: str) -> None:
    """Raise ValueError for what :func:`from_pixels` does not make."""
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(f'output_type must be "pil", "np" or "pt", got {output_type!r}')


def _are_alike(arrays: Sequence[NDArray[Any]]) -> bool:
    return len({array.shape for array in arrays}) == 1


def _of_array(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"images must have one or three channels, got shape {image.shape}")
    if image.dtype != np.uint8:
        image = _rounded(image)
    return np.ascontiguousarray(image if image.shape[-1] == 3 else image.repeat(3, axis=-1))


def _rounded(image: NDArray[Any]) -> NDArray[np.uint8]:
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"images must be uint8 or floating point, got {image.dtype}")
    if image.size and not (image.min() >= -RANGE_TOLERANCE and image.max() <= 1 + RANGE_TOLERANCE):
        raise ValueError(
            f"floating-point images must be in [0, 1], got {image.min():g} to {image.max():g}"
        )
    return (image.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
