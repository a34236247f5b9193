# SPDX-License-Identifier: Apache-2.0
"""CompressAI's models in our sweeps, and our codec under CompressAI's evaluation.

https://github.com/InterDigitalInc/CompressAI
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from genaccel.codec.image_codec import ImageCodec
from genaccel.eval._pairs.image_tensors import to_planes

# Six halvings, the most that any of its models has.
_ALIGNMENT = 64
# Width and height of the image, height and width of the latents, number of strings; then a length for each.
_HEADER = struct.Struct("<HHHHB")
_LENGTH = struct.Struct("<I")
# Under these, checkpoints of its training scripts and of others keep the weights.
_WEIGHT_KEYS = ("network", "state_dict", "model_state_dict")


def _image_models() -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            # Deprecations of torch that its modules run into on import; nothing a user could act on.
            warnings.simplefilter("ignore")
            import compressai.zoo
    except ImportError as error:
        raise ImportError(
            f"CompressAI cannot be imported ({error}): run `pip install 'genaccel[codec]'`"
        ) from error
    models: dict[str, Any] = compressai.zoo.image_models
    # Those of variable rate take a scale beside the image.
    return {name: make for name, make in models.items() if not name.endswith("-vbr")}


def require_architecture(name: str) -> None:
    """Raise ValueError unless CompressAI has a model of fixed rate by this name.

    Raises:
        ValueError: If it has none.
        ImportError: If CompressAI is missing.
    """
    names = _image_models()
    if name not in names:
        raise ValueError(f"architecture must be one of {', '.join(names)}, got {name!r}")


def load_compressai(
    architecture: str, quality: int, *, checkpoint: Path | None = None
) -> nn.Module:
    """A model of CompressAI's zoo, ready to compress.

    Args:
        architecture: Its name there: ``bmshj2018-hyperprior``.
        quality: From 1, which makes the smallest files, to 6 or 8.
        checkpoint: Weights to use; by default CompressAI downloads those trained for squared error.

    Raises:
        ValueError: If there is no such model, or the checkpoint is not one of it.
        OSError: If the weights cannot be read or downloaded.
        ImportError: If CompressAI is missing.
    """
    require_architecture(architecture)
    make = _image_models()[architecture]
    if checkpoint is None:
        return _download(make, architecture, quality)
    # Typed loosely: to mypy, an unknown attribute of a module is a tensor.
    model: Any = make(quality, pretrained=False)
    try:
        model.load_state_dict(_read_checkpoint(checkpoint))
    except (RuntimeError, AttributeError, TypeError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{checkpoint} is no checkpoint of {architecture} at quality {quality}: {first}"
        ) from error
    model.update(force=True)  # tables for the entropy coder: training leaves them empty
    loaded: nn.Module = model.eval()
    return loaded


def _download(make: Any, architecture: str, quality: int) -> nn.Module:
    try:
        model: nn.Module = make(quality, pretrained=True, progress=False)
    except OSError as error:  # urllib's errors are
        raise OSError(
            f"CompressAI's weights of {architecture} at quality {quality} cannot be downloaded "
            f"({error}): give a checkpoint, compressai:{architecture}:{quality}:FILE"
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{architecture} at quality {quality}: {error}") from error
    return model.eval()


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    import compressai.zoo

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the unpickler stumbles over garbage in any way there is
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is not a checkpoint: {first}") from error
    for key in _WEIGHT_KEYS:
        if isinstance(content, dict) and key in content:
            content = content[key]
    # Renames what older versions wrote.
    weights: dict[str, Tensor] = compressai.zoo.load_state_dict(content)
    return weights


class CompressAiCodec:
    """Any model with CompressAI's ``compress`` and ``decompress``, from images to bytes and back.

    Images are padded with zeros on all sides to multiples of 64, as CompressAI's own evaluation does.
    The bytes hold all that decoding needs: the entropy-coded strings, their lengths, the sizes of
    image and latents. CompressAI's evaluation counts the strings alone, which are 13 to 17 bytes less.

    Args:
        model: In evaluation mode, its tables up to date, on the device to use.

    Example:
        >>> codec = CompressAiCodec(load_compressai("bmshj2018-factorized", 1))  # doctest: +SKIP
        >>> data = codec.encode(image)  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self._device = next(model.parameters()).device

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """The bytes of ``[H, W, 3]``.

        Raises:
            ValueError: If a side is longer than 65,535 pixels.
        """
        height, width = image.shape[:2]
        if max(height, width) > 0xFFFF:
            raise ValueError(f"sides must be at most 65535 pixels, got {width}x{height}")
        x = to_tensor(image).to(self._device)
        coded = self.model.compress(F.pad(x, _padding(height, width)))
        strings = [string[0] for string in coded["strings"]]
        parts = [_HEADER.pack(width, height, *map(int, coded["shape"]), len(strings))]
        parts += [_LENGTH.pack(len(string)) for string in strings]
        return b"".join([*parts, *strings])

    @torch.inference_mode()
    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """``[H, W, 3]`` of the bytes.

        Raises:
            ValueError: If they are cut off.
        """
        try:
            width, height, rows, columns, count = _HEADER.unpack_from(data)
            offset = _HEADER.size
            lengths = [
                _LENGTH.unpack_from(data, offset + i * _LENGTH.size)[0] for i in range(count)
            ]
        except struct.error as error:
            raise ValueError(f"{len(data)} bytes are no compressed image: {error}") from error
        offset += count * _LENGTH.size
        if offset + sum(lengths) != len(data):
            raise ValueError(
                f"compressed image must have {offset + sum(lengths)} bytes, got {len(data)}"
            )
        strings = []
        for length in lengths:
            strings.append([data[offset : offset + length]])
            offset += length
        x_hat = self.model.decompress(strings, torch.Size((rows, columns)))["x_hat"]
        return to_image(F.pad(x_hat, [-side for side in _padding(height, width)]))


def _padding(height: int, width: int) -> list[int]:
    """Left, right, top, bottom, for :func:`torch.nn.functional.pad`; as ``compressai.ops.compute_padding``."""
    padding = []
    for side in (width, height):
        missing = -side % _ALIGNMENT
        padding += [missing // 2, missing - missing // 2]
    return padding


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """``[H, W, 3]`` as ``[1, 3, H, W]`` in [0, 1]."""
    return to_planes(image).float() / 255.0


def to_image(x: Tensor) -> NDArray[np.uint8]:
    """``[1, 3, H, W]`` in [0, 1], rounded to ``[H, W, 3]``."""
    pixels = x[0].mul(255.0).clamp(0, 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).cpu().contiguous().numpy()


class AsCompressAi(nn.Module):
    """:class:`genaccel.codec.ImageCodec` with the interface of CompressAI's models.

    The functions of ``compressai.utils.eval_model`` run on it. A string is a whole ``.gac`` file, so the
    rate that they find is that of the file. They pad images to multiples of 64 before ``compress``: the
    rate then includes the border, unless the sides are such multiples.

    Args:
        image_codec: The codec.
    """

    def __init__(self, image_codec: ImageCodec) -> None:
        super().__init__()
        self.image_codec = image_codec
        # CompressAI asks the parameters for the device.
        self.model = image_codec.model

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Files of ``[B, 3, H, W]`` in [0, 1].

        Returns:
            ``strings``, one list that holds the file of each image; ``shape``, the size ``(H, W)``.
        """
        files = [self.image_codec.encode(to_image(image[None])) for image in x]
        return {"strings": [files], "shape": torch.Size(x.shape[-2:])}

    def decompress(
        self, strings: Sequence[Sequence[bytes]], shape: Sequence[int]
    ) -> dict[str, Any]:
        """Images of what :meth:`compress` made.

        Args:
            strings: Its ``strings``.
            shape: Its ``shape``.

        Returns:
            ``x_hat``, ``[B, 3, H, W]`` in [0, 1].

        Raises:
            ValueError: If there is not one list of files, or an image has another size.
        """
        if len(strings) != 1:
            raise ValueError(f"strings must be one list of files, got {len(strings)} lists")
        images = [to_tensor(self.image_codec.decode(data)) for data in strings[0]]
        for image in images:
            if tuple(image.shape[-2:]) != tuple(shape):
                raise ValueError(f"shape must be {tuple(image.shape[-2:])}, got {tuple(shape)}")
        return {"x_hat": torch.cat(images).to(next(self.parameters()).device)}

    def update(self, *_arguments: Any, **_options: Any) -> bool:
        """Nothing to do: the tables of the entropy coder are part of the model."""
        return False

    def forward(self, x: Tensor) -> dict[str, Any]:
        """``x_hat``, and ``likelihoods`` whose negative binary logarithms sum up to the bits of the files.

        They are spread evenly over the pixels, ``[B, 1, H, W]`` in double precision: the codec knows real
        files, no estimates.
        """
        coded = self.compress(x)
        height, width = x.shape[-2:]
        bits = torch.tensor([8.0 * len(data) for data in coded["strings"][0]], dtype=torch.float64)
        likelihood = torch.exp(-math.log(2.0) * bits / (height * width))  # [B]
        return {
            **self.decompress(**coded),
            "likelihoods": {
                "file": likelihood.view(-1, 1, 1, 1).expand(-1, 1, height, width).to(x.device)
            },
        }


def as_compressai(image_codec: ImageCodec) -> AsCompressAi:
    """Put CompressAI's interface on a codec: ``compress``, ``decompress``, ``update``, ``forward``.

    Args:
        image_codec: The codec.

    Example:
        >>> from compressai.utils.eval_model.__main__ import inference  # doctest: +SKIP
        >>> inference(as_compressai(ImageCodec.from_pretrained()), x)["bpp"]  # doctest: +SKIP
        0.21
    """
    return AsCompressAi(image_codec).eval()
