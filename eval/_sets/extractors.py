# SPDX-License-Identifier: Apache-2.0
"""Networks that turn images into the features of set metrics, each with its preparation of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from genaccel.eval.devices import device_by_name, exact_convolutions

# bilinear: of torch, without antialiasing, as pytorch-fid does. antialias: the same with it, as
# torchmetrics >= 1.8. bicubic: of Pillow, channel by channel in floating point, as clean-fid.
Resize = Literal["bilinear", "antialias", "bicubic"]


def resize_to_square(image: NDArray[np.uint8], side: int, resize: Resize) -> Tensor:
    """An image of any shape, squeezed into a square.

    Args:
        image: ``[H, W, 3]``.
        side: Of the square, in pixels.
        resize: The rule. FID values of different rules are not comparable.

    Returns:
        ``[3, side, side]``, float32 in [0, 1].
    """
    if resize == "bicubic":
        channels = [
            np.asarray(
                Image.fromarray(image[..., c].astype(np.float32), mode="F").resize(
                    (side, side), Image.Resampling.BICUBIC
                )
            )
            for c in range(3)
        ]
        return torch.from_numpy(np.stack(channels).clip(0, 255) / 255)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    antialias = resize == "antialias"
    if pixels.shape[2:] == (side, side):
        return pixels[0]
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=antialias)[0]


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Image ``[H, W, 3]`` to network input ``[3, side, side]``; it is sent to worker processes.

    Attributes:
        side: Of the input, in pixels.
        resize: The rule.
        mean: Subtracted from values in [0, 1], by channel.
        deviation: Divided by.
    """

    side: int
    resize: Resize
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        x = resize_to_square(image, self.side, self.resize)
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.deviation)[
            :, None, None
        ]


class Preparation(Protocol):
    """Image ``[H, W, 3]`` to network input ``[3, H, W]``; it is sent to worker processes."""

    @property
    def resize(self) -> str:
        """The rule of its size, for records."""

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """Prepare an image."""


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network with all that its features depend on.

    Attributes:
        name: Network and layer, for records.
        dimensions: Number of features D.
        network: From ``[B, 3, S, S]`` to ``[B, D]``, in evaluation mode.
        prepare: Makes its input.
        weights: SHA-256 of the weight file.
        device: Where the network is.
        warnings: Sentences that a reader of its values must know.
    """

    name: str
    dimensions: int
    network: nn.Module | Callable[[Tensor], Tensor]
    prepare: Preparation
    weights: str
    device: torch.device
    warnings: Sequence[str] = ()

    @property
    def provenance(self) -> dict[str, object]:
        """All that two sets of features must share to be compared."""
        return {
            "extractor": self.name,
            "dimensions": self.dimensions,
            "resize": self.prepare.resize,
            "weights_sha256": self.weights,
        }

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of prepared images: ``[B, 3, S, S]`` to float32 ``[B, D]`` on the device."""
        images = images.to(self.device, memory_format=torch.channels_last)
        with exact_convolutions():
            features: Tensor = self.network(images)
        return features.float()


def load_weights(load: Callable[[Any], object], path: Path, network: str) -> None:
    """Give a network the content of its weight file.

    Args:
        load: Takes the content; a network's ``load_state_dict`` or the like.
        path: The file.
        network: Its name, for the message.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it holds other weights, or none.
    """
    try:
        load(torch.load(path, map_location="cpu", weights_only=True))
    except OSError:
        raise
    except Exception as error:  # the unpickler and a foreign content stumble in any way there is
        reason = f" ({error})" if type(error) is ValueError else ""
        raise ValueError(f"{path} holds no weights of {network}{reason}") from error


def make_extractor(
    name: str,
    network: nn.Module,
    *,
    dimensions: int,
    prepare: Preparation,
    sha256: str,
    device: str,
    warnings: Sequence[str] = (),
) -> Extractor:
    """A network as an extractor: frozen, and in the layout that convolutions run fastest in.

    Args:
        name: Network and layer, for records.
        network: With its weights loaded.
        dimensions: Number of features.
        prepare: Makes its input.
        sha256: Of the file that they came from, for records.
        device: Where it shall run.
        warnings: Sentences that a reader of its values must know.

    Raises:
        ValueError: If there is no such device here.
    """
    place = device_by_name(device)
    frozen = network.eval().requires_grad_(False).to(place)
    return Extractor(
        name=name,
        dimensions=dimensions,
        network=frozen.to(memory_format=torch.channels_last),
        prepare=prepare,
        weights=sha256,
        device=place,
        warnings=tuple(warnings),
    )
