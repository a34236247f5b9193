# SPDX-License-Identifier: Apache-2.0
"""Two upscales of a picture made one: colours and structure of the faithful one, detail of the sharp one.

The frequency-domain update of PS-SR, of any two pictures of one size; :func:`genaccel.ops.frequency_update` is the same
for tensors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel import ops
from genaccel.errors import BitstreamError, LimitExceededError
from genaccel.files.untrusted import require_tensors, stored_tensors

# Fine detail is in (-2, 2), and a step is 1 / 64 of a level of 8 bits.
_STEPS = 1 << 14


def blend(
    faithful: NDArray[np.uint8],
    sharp: NDArray[np.uint8],
    alpha: float = 1.0,
    *,
    weight: NDArray[np.float32] | None = None,
    device: str | torch.device = "cpu",
) -> NDArray[np.uint8]:
    """Put the fine detail of a sharp picture on the colours and the structure of a faithful one.

    Args:
        faithful: uint8 ``[H, W, 3]``, such as an upscale by a network that was trained for small errors.
        sharp: Of the same size, such as one by a generative network.
        alpha: Strength of all fine detail: 1 for all of it, 0 for none, that of ``faithful`` included.
        weight: float32 ``[H, W]``: how much of the change to make at each place, from 0 to 1. None for 1 everywhere.
        device: Where to compute.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: If the sizes differ, a picture is of another shape or type, or ``alpha`` is not finite.

    Example:
        >>> import numpy as np
        >>> grey = np.full((4, 4, 3), 90, np.uint8)
        >>> blend(grey, grey).tolist() == grey.tolist()
        True
    """
    check_sizes(faithful, sharp)
    weights = None if weight is None else torch.from_numpy(weight)[None].to(device)
    made = ops.frequency_update(
        _frame(faithful).to(device), _frame(sharp).to(device), alpha, weight=weights
    )
    pixels: NDArray[np.uint8] = made[0].permute(1, 2, 0).cpu().numpy()
    return pixels


def check_sizes(faithful: NDArray[np.uint8], sharp: NDArray[np.uint8]) -> None:
    """Raise ValueError unless both are pictures, and of one size."""
    for name, picture in (("faithful", faithful), ("sharp", sharp)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"{name} must be uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}"
            )
    if faithful.shape != sharp.shape:
        sizes = [f"{picture.shape[1]}x{picture.shape[0]}" for picture in (faithful, sharp)]
        raise ValueError(
            f"the faithful picture has {sizes[0]} pixels and the sharp one {sizes[1]}: "
            "both must be of one size"
        )


def _frame(picture: NDArray[np.uint8]) -> Tensor:
    """``[1, 3, H, W]`` as it lies in memory."""
    return torch.from_numpy(np.require(picture, requirements=["C", "W"])).permute(2, 0, 1)[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What a blend is made of, so that its strength can be chosen afterwards without filtering anew.

    The picture at a strength is ``faithful + alpha * detail - fine``, the same number for red, green and blue.

    Attributes:
        faithful: uint8 ``[H, W, 3]``.
        detail: int16 ``[H, W]``, fine detail of both pictures by their weights, in steps of 2^-14.
        fine: int16 ``[H, W]``, that of the faithful one alone.
        alpha: uint8 ``[H, W]``, transparency of the faithful picture, or None.
    """

    faithful: NDArray[np.uint8]
    detail: NDArray[np.int16]
    fine: NDArray[np.int16]
    alpha: NDArray[np.uint8] | None = None

    def at(self, alpha: float) -> NDArray[np.uint8]:
        """The picture uint8 ``[H, W, 3]`` at a strength; within one level of :func:`blend`.

        Raises:
            ValueError: If ``alpha`` is not finite.
        """
        if not np.isfinite(alpha):
            raise ValueError(f"alpha must be a finite number, got {alpha}")
        scale = np.float32(255 / _STEPS)
        change = self.detail * (scale * np.float32(alpha)) - self.fine * scale
        made = self.faithful + change[..., None]
        pixels: NDArray[np.uint8] = made.round().clip(0, 255).astype(np.uint8)
        return pixels

    def to_bytes(self) -> bytes:
        """A safetensors file of them."""
        arrays = {"faithful": self.faithful, "detail": self.detail, "fine": self.fine}
        if self.alpha is not None:
            arrays["alpha"] = self.alpha
        data: bytes = safetensors.numpy.save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        )
        return data

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_pixels: int = 2**27) -> Layers:
        """Read what :meth:`to_bytes` wrote.

        Args:
            path: The file.
            max_pixels: Largest width times height.

        Raises:
            BitstreamError: If it is no such file, or damaged.
            LimitExceededError: If the picture is too large.
            OSError: If it cannot be read.
        """
        file = Path(path)
        try:
            found = stored_tensors(file)
            height, width = (*found["detail"].shape, 0, 0)[:2] if "detail" in found else (0, 0)
            places = (height, width)
            expected = {
                "faithful": (("U8",), (*places, 3)),
                "detail": (("I16",), places),
                "fine": (("I16",), places),
            }
            if "alpha" in found:
                expected["alpha"] = (("U8",), places)
            require_tensors(file, expected)
        except ValueError as error:
            raise BitstreamError(f"not a file of layers: {error}") from error
        if height * width == 0:
            raise BitstreamError(f"{file} is a file of layers without a pixel")
        if height * width > max_pixels:
            raise LimitExceededError(
                f"layers of {width}x{height} pixels exceed the limit of {max_pixels} pixels"
            )
        return cls(**safetensors.numpy.load_file(file))


def split_layers(
    faithful: NDArray[np.uint8],
    sharp: NDArray[np.uint8],
    *,
    alpha: NDArray[np.uint8] | None = None,
) -> Layers:
    """What :func:`blend` would put together.

    Args:
        faithful: uint8 ``[H, W, 3]``.
        sharp: Of the same size.
        alpha: uint8 ``[H, W]``, transparency to keep beside them.

    Raises:
        ValueError: As :func:`blend`.
    """
    check_sizes(faithful, sharp)
    fine, sharp_fine = (_fine(picture) for picture in (faithful, sharp))
    weight = sharp_fine.abs() / (sharp_fine.abs() + fine.abs() + ops.frequency.EPSILON)
    detail = torch.lerp(fine, sharp_fine, weight)
    return Layers(faithful=faithful, detail=_steps(detail), fine=_steps(fine), alpha=alpha)


def _fine(picture: NDArray[np.uint8]) -> Tensor:
    red, green, blue = torch.from_numpy(picture).unbind(-1)
    parts = zip(ops.frequency.LUMINANCE, (red, green, blue), strict=True)
    luminance = sum((part / 255 * plane for part, plane in parts), torch.zeros(()))
    return luminance - ops.low_pass(luminance)


def _steps(values: Tensor) -> NDArray[np.int16]:
    steps: NDArray[np.int16] = (values * _STEPS).round().to(torch.int16).numpy()
    return steps
