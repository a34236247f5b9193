# SPDX-License-Identifier: Apache-2.0
"""The image codec: photographs to bytes and back, with a trained autoencoder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from genaccel import zoo
from genaccel.codec.bitstream import (
    CUSTOM_MODEL_NUMBER,
    DIGEST_BYTES,
    Bitstream,
    BitstreamInfo,
    describe,
)
from genaccel.codec.index_coder import IndexCoder
from genaccel.codec.limits import CodecLimits
from genaccel.codec.tiling import Tiling, decode_tiles, encode_tiles
from genaccel.errors import LimitExceededError, UnknownModelError
from genaccel.models.autoencoder import Autoencoder

DEFAULT_MODEL = "photo-codec-small"

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


class ImageCodec:
    """Encodes and decodes images with one model.

    The indices in a file are recovered exactly on any machine; the pixels that the decoder network makes of
    them may differ in the last bit between machines.

    Args:
        model: In evaluation mode, on the device to use.
        model_number: The model's number in the zoo; 0 for one outside it.
        model_name: For messages.
        limits: What to refuse.
        tiling: How large images are cut; by default as the format says.

    Example:
        >>> import numpy as np
        >>> from genaccel.codec import ImageCodec
        >>> codec = ImageCodec.from_pretrained("photo-codec-small")
        >>> data = codec.encode(np.full((427, 640, 3), 128, np.uint8))
        >>> codec.decode(data).shape
        (427, 640, 3)
    """

    def __init__(
        self,
        model: Autoencoder,
        *,
        model_number: int = CUSTOM_MODEL_NUMBER,
        model_name: str = "custom model",
        limits: CodecLimits | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        self.model = model
        self.model_name = model_name
        self.model_number = model_number
        self.limits = limits or CodecLimits()
        self.tiling = tiling or Tiling.default(model.params)
        self._digest = model.digest()[:DIGEST_BYTES]
        self._index_coder = IndexCoder(model.index_cdfs.cpu().numpy())
        # Here and not on first use: it also warms the network up, which is no part of coding time.
        self._activation_bytes_per_pixel = activation_bytes_per_pixel(model)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] = DEFAULT_MODEL,
        device: str | torch.device = "cpu",
        *,
        limits: CodecLimits | None = None,
        tiling: Tiling | None = None,
    ) -> ImageCodec:
        """Load a model of the zoo by name, or of a folder that ``Autoencoder.save_pretrained`` wrote.

        Raises:
            UnknownModelError: If there is no such model, or its files are missing or damaged.
        """
        name = os.fspath(name_or_folder)
        if name in zoo.names("codec"):
            folder, number = zoo.path(name), zoo.codec_number(name)
        elif Path(name).is_dir():
            folder, number = Path(name), CUSTOM_MODEL_NUMBER
        else:
            raise UnknownModelError(
                f"no model {name!r}: it is neither a folder nor one of {', '.join(zoo.names('codec'))}"
            )
        try:
            model = Autoencoder.from_pretrained(folder)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise UnknownModelError(f"model {name!r} cannot be loaded: {error}") from error
        return cls(
            model.to(device), model_number=number, model_name=name, limits=limits, tiling=tiling
        )

    def _padded(self, length: int) -> int:
        alignment = self.model.params.alignment
        return -(-length // alignment) * alignment

    def estimate_memory_bytes(self, height: int, width: int) -> int:
        """Working memory for an image of this size, model weights apart."""
        padded_height, padded_width = self._padded(height), self._padded(width)
        pixels = padded_height * padded_width
        tile_pixels = self.tiling.peak_pixels(
            padded_height, padded_width, self.model.params.alignment
        )
        tokens = sum(pixels // s**2 for s in self.model.params.strides)
        # Image and padded copy at 3 bytes, tokens as int32 twice, two float bands across the image.
        band_rows = min(padded_height, self.tiling.tile_size + 2 * self.tiling.margin)
        whole = 6 * pixels + 8 * tokens + 24 * band_rows * padded_width
        return int(whole + tile_pixels * self._activation_bytes_per_pixel)

    def _check_limits(self, height: int, width: int) -> None:
        if height * width > self.limits.max_pixels:
            raise LimitExceededError(
                f"image of {width}x{height} pixels exceeds the limit of {self.limits.max_pixels} pixels"
            )
        needed = self.estimate_memory_bytes(height, width)
        if needed > self.limits.max_memory_bytes:
            raise LimitExceededError(
                f"image of {width}x{height} pixels needs about {needed / 2**20:.0f} MiB, "
                f"the limit is {self.limits.max_memory_bytes / 2**20:.0f} MiB"
            )

    def _map_shapes(self, height: int, width: int) -> list[tuple[int, int]]:
        return [
            (self._padded(height) // s, self._padded(width) // s) for s in self.model.params.strides
        ]

    @torch.inference_mode()
    def encode_indices(self, image: NDArray[np.uint8]) -> list[NDArray[np.int32]]:
        """Index maps of an image, coarse to fine, ``[ceil(H/a)*a/s, ceil(W/a)*a/s]`` for stride s, alignment a.

        Args:
            image: uint8 ``[H, W, 3]``, sRGB.

        Raises:
            TypeError: If the image is not uint8.
            ValueError: If it has another shape, or no pixels.
            LimitExceededError: If it is larger than the limits allow.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            raise TypeError(
                f"image must be a uint8 array, got {getattr(image, 'dtype', type(image).__name__)}"
            )
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"image must have shape [H, W, 3], got {image.shape}")
        height, width = image.shape[:2]
        self._check_limits(height, width)
        below, right = self._padded(height) - height, self._padded(width) - width
        padded = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
        maps = encode_tiles(self.model, torch.from_numpy(padded), self.tiling)
        return [index_map.numpy() for index_map in maps]

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """Compress an image to the contents of a ``.gac`` file.

        Args:
            image: uint8 ``[H, W, 3]``, sRGB, sides up to 65,535.

        Raises:
            TypeError: If the image is not uint8.
            ValueError: If it has another shape, no pixels, or a longer side.
            LimitExceededError: If it is larger than the limits allow.
        """
        index_maps = self.encode_indices(image)
        return Bitstream(
            width=image.shape[1],
            height=image.shape[0],
            model_number=self.model_number,
            model_digest=self._digest,
            payload=self._index_coder.encode(index_maps),
        ).to_bytes()

    def _parse(self, data: bytes) -> tuple[Bitstream, list[NDArray[np.int32]]]:
        stream = Bitstream.from_bytes(data, self.limits.max_pixels)
        if stream.model_digest != self._digest:
            raise UnknownModelError(
                f"file needs {_model_in_words(stream)}, but {self.model_name!r} here has digest "
                f"{self._digest.hex()}: give the model that wrote the file (--model), "
                "or install the genaccel version that wrote it"
            )
        self._check_limits(stream.height, stream.width)
        shapes = self._map_shapes(stream.height, stream.width)
        return stream, self._index_coder.decode(stream.payload, shapes)

    def decode_indices(self, data: bytes) -> list[NDArray[np.int32]]:
        """Index maps of a file, equal to those that were encoded; raises as :meth:`decode` does."""
        return self._parse(data)[1]

    @torch.inference_mode()
    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Image ``[H, W, 3]`` of the contents of a ``.gac`` file.

        Raises:
            BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
            UnknownModelError: If another model wrote it.
            LimitExceededError: If the image is larger than the limits allow.
        """
        stream, index_maps = self._parse(data)
        image = np.empty((stream.height, stream.width, 3), np.uint8)
        top = 0
        maps = [torch.from_numpy(index_map) for index_map in index_maps]
        for band in decode_tiles(self.model, maps, self.tiling):
            rows = min(band.shape[1], stream.height - top)
            visible = band[:, :rows, : stream.width].add(1).mul(127.5).round().clamp(0, 255)
            image[top : top + rows] = visible.to(torch.uint8).permute(1, 2, 0).numpy()
            top += rows
        return image

    def info(self, data: bytes) -> BitstreamInfo:
        """What a file says about itself.

        Raises:
            BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
            LimitExceededError: If the image has more pixels than the limits allow.
        """
        return describe(data, self.limits.max_pixels)


def _model_in_words(stream: Bitstream) -> str:
    digest = f"digest {stream.model_digest.hex()}"
    if stream.model_number == CUSTOM_MODEL_NUMBER:
        return f"a model outside the zoo with {digest}"
    name = zoo.codec_name(stream.model_number)
    return (
        f"model {name!r} with {digest}"
        if name
        else f"model number {stream.model_number} ({digest})"
    )


class CodecPool:
    """Loads codecs on first use and keeps them: a batch of files needs each model once.

    Args:
        model: Name or folder to use for every file; by default :meth:`for_file` goes by the file.
        device: Where models run.
        limits: What to refuse.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str | torch.device = "cpu",
        limits: CodecLimits | None = None,
    ) -> None:
        self.limits = limits or CodecLimits()
        self._model = model
        self._device = device
        self._codecs: dict[str, ImageCodec] = {}

    def _load(self, name: str) -> ImageCodec:
        if name not in self._codecs:
            self._codecs[name] = ImageCodec.from_pretrained(name, self._device, limits=self.limits)
        return self._codecs[name]

    def for_encoding(self) -> ImageCodec:
        """The chosen model, or the default one.

        Raises:
            UnknownModelError: If it cannot be loaded.
        """
        return self._load(self._model or DEFAULT_MODEL)

    def for_file(self, data: bytes) -> ImageCodec:
        """The chosen model, or the one that a ``.gac`` file names.

        Raises:
            BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
            LimitExceededError: If the image has more pixels than the limits allow.
            UnknownModelError: If the model is not at hand.
        """
        stream = Bitstream.from_bytes(data, self.limits.max_pixels)
        name = self._model or zoo.codec_name(stream.model_number)
        if name is None:
            remedy = (
                "give its folder (--model FOLDER)"
                if stream.model_number == CUSTOM_MODEL_NUMBER
                else "a newer genaccel may have it, or give its folder (--model FOLDER)"
            )
            raise UnknownModelError(
                f"file needs {_model_in_words(stream)}, which is not at hand: {remedy}"
            )
        return self._load(name)
