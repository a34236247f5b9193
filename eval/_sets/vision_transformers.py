# SPDX-License-Identifier: Apache-2.0
"""DINOv2 and CLIP as networks of set metrics, from a folder in the layout of transformers; nothing is fetched.

FD-DINOv2 is the distance of Stein et al. (arXiv:2306.04675), CMMD that of Jayasumana et al. (arXiv:2401.09603).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from genaccel.eval._sets.extractors import Extractor, Resize, make_extractor

TransformerName = Literal["dinov2", "clip"]
TITLES: Mapping[str, str] = {"dinov2": "DINOv2", "clip": "CLIP"}

_CONFIG = "config.json"
_PREPROCESSOR = "preprocessor_config.json"
_MODEL_TYPES = {
    "dinov2": ("dinov2", "dinov2_with_registers"),
    "clip": ("clip", "clip_vision_model"),
}
_EXAMPLES = {"dinov2": "facebook/dinov2-large", "clip": "openai/clip-vit-large-patch14-336"}
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
# More than any vision model takes, and still a bound on what a file can make us allocate.
_MAX_SIDE = 4096


@dataclass(frozen=True, kw_only=True)
class ProcessorPrepare:
    """Image ``[H, W, 3]`` to network input, as the image processors of transformers do it with Pillow.

    Attributes:
        shortest: Side that the shorter one becomes, or None.
        size: Height and width that the image becomes, or None.
        resampling: Pillow's number of the filter.
        crop: Height and width of the middle that is kept, or None.
        factor: Values are multiplied by it.
        mean: Subtracted then, by channel.
        deviation: Divided by.
    """

    shortest: int | None
    size: tuple[int, int] | None
    resampling: int
    crop: tuple[int, int] | None
    factor: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def resize(self) -> str:
        """The rule, for records."""
        parts = []
        if self.size or self.shortest:
            side = (
                f"{self.size[1]}x{self.size[0]}" if self.size else f"shorter side {self.shortest}"
            )
            parts.append(f"{_RESAMPLING[self.resampling]} to {side}")
        if self.crop:
            parts.append(f"middle {self.crop[1]}x{self.crop[0]}")
        return ", ".join(parts) or "none"

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        picture = Image.fromarray(image)
        width, height = picture.size
        if self.size is not None:
            height, width = self.size
        elif self.shortest is not None:
            short, long = sorted((width, height))
            longer = int(self.shortest * long / short)
            width, height = (self.shortest, longer) if width <= height else (longer, self.shortest)
        if (width, height) != picture.size:
            picture = picture.resize((width, height), Image.Resampling(self.resampling))
        if self.crop is not None:
            top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
            # Where the image is smaller, Pillow fills with zeros.
            picture = picture.crop((left, top, left + self.crop[1], top + self.crop[0]))
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() * self.factor
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.deviation)[
            :, None, None
        ]

    @classmethod
    def read(cls, path: Path) -> ProcessorPrepare:
        """The rule of a ``preprocessor_config.json``.

        Raises:
            OSError: If the file cannot be opened.
            ValueError: If it says nothing of the kind.
        """
        config = _read_object(path)
        try:
            shortest, size = (
                _size(config.get("size")) if config.get("do_resize", True) else (None, None)
            )
            crop = None
            if config.get("do_center_crop", False):
                side, crop = _size(config.get("crop_size"))
                crop = crop or (int(side), int(side))  # type: ignore[arg-type]
            resampling = int(config.get("resample", 3))
            normalise = config.get("do_normalize", True)
            mean = tuple(float(v) for v in (config["image_mean"] if normalise else (0, 0, 0)))
            deviation = tuple(float(v) for v in (config["image_std"] if normalise else (1, 1, 1)))
            factor = (
                float(config.get("rescale_factor", 1 / 255))
                if config.get("do_rescale", True)
                else 1.0
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is no configuration of an image processor ({error})"
            ) from error
        if (
            resampling not in _RESAMPLING
            or len(mean) != 3
            or len(deviation) != 3
            or not all(deviation)
        ):
            raise ValueError(f"{path} is no configuration of a processor of RGB images")
        return cls(
            shortest=shortest,
            size=size,
            resampling=resampling,
            crop=crop,
            factor=factor,
            mean=mean,
            deviation=deviation,
        )


def _size(value: Any) -> tuple[int | None, tuple[int, int] | None]:
    """Shortest side, or height and width, in any of the forms that transformers has used."""
    if isinstance(value, Mapping) and "shortest_edge" in value:
        value = value["shortest_edge"]
    sides = (value["height"], value["width"]) if isinstance(value, Mapping) else (value,)
    numbers = [int(side) for side in sides]
    if not all(1 <= side <= _MAX_SIDE for side in numbers):
        raise ValueError(f"sides must be within 1 to {_MAX_SIDE}, got {numbers}")
    return (numbers[0], None) if len(numbers) == 1 else (None, (numbers[0], numbers[1]))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


class _ImageFeatures(nn.Module):
    """One vector an image: DINOv2's class token after the last norm, CLIP's projected embedding."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, D]
        features: Tensor = getattr(self.model(pixel_values=x), self.output)
        return features


def load_vision_transformer(
    name: TransformerName, folder: Path | None, *, device: str = "cpu", resize: Resize = "bilinear"
) -> Extractor:
    """DINOv2 or the image side of CLIP, with the preparation that its folder describes.

    Args:
        name: Which of the two.
        folder: With ``config.json``, ``preprocessor_config.json`` and the weights, as transformers saves them.
        device: Where it runs.
        resize: Must be the default: the folder says how images are prepared.

    Raises:
        FileNotFoundError: If there is no such folder, or a file is missing in it.
        ImportError: If transformers is not installed.
        ValueError: If it holds another network, or another ``resize`` is asked for.
    """
    if resize != "bilinear":
        raise ValueError(
            f"--resize is for inception; the folder of {TITLES[name]} has a rule of its own"
        )
    wanted = (
        f"--features {name} needs --weights FOLDER, with {_CONFIG}, {_PREPROCESSOR} and the weights"
    )
    how = f"`hf download {_EXAMPLES[name]} --local-dir FOLDER` makes one; nothing is fetched from here"
    if folder is None:
        raise FileNotFoundError(f"{wanted}: {how}")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: {wanted}: {how}")
    for required in (_CONFIG, _PREPROCESSOR):
        if not (folder / required).is_file():
            raise FileNotFoundError(f"{folder} has no {required}: {wanted}: {how}")
    kind = _read_object(folder / _CONFIG).get("model_type")
    if kind not in _MODEL_TYPES[name]:
        raise ValueError(f"{folder} holds a model of type {kind!r}, not {TITLES[name]}")
    prepare = ProcessorPrepare.read(folder / _PREPROCESSOR)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not files:
        raise FileNotFoundError(f"{folder} has no weights (*.safetensors): {wanted}: {how}")
    model, output = _load(name, folder, kind)
    dimensions = model.config.projection_dim if output == "image_embeds" else _width(model.config)
    return make_extractor(
        f"{type(model).__name__}/{dimensions}",
        _ImageFeatures(model, output),
        dimensions=dimensions,
        prepare=prepare,
        sha256=_digest(files),
        device=device,
    )


def _width(config: Any) -> int:
    return int(getattr(config, "vision_config", config).hidden_size)


def _load(name: str, folder: Path, kind: str) -> tuple[Any, str]:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{TITLES[name]} needs transformers: pip install transformers") from error
    choices = {
        "dinov2": [("Dinov2Model", "pooler_output")],
        "dinov2_with_registers": [("Dinov2WithRegistersModel", "pooler_output")],
        # A vision model that was saved without its projection has an embedding too, of another space.
        "clip": [("CLIPVisionModelWithProjection", "image_embeds")],
        "clip_vision_model": [
            ("CLIPVisionModelWithProjection", "image_embeds"),
            ("CLIPVisionModel", "pooler_output"),
        ],
    }[kind]
    missing: list[str] = []
    for class_name, output in choices:
        try:
            model, information = getattr(transformers, class_name).from_pretrained(
                folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
            )
        except (
            Exception
        ) as error:  # transformers and safetensors raise whatever a damaged file trips
            raise ValueError(f"{folder} holds no weights of {TITLES[name]} ({error})") from error
        missing = sorted(information["missing_keys"]) + sorted(
            str(key) for key in information["mismatched_keys"]
        )
        if not missing:
            return model, output
    raise ValueError(f"{folder} holds no weights of {TITLES[name]}: {missing[0]} is missing")


def _digest(files: list[Path]) -> str:
    """SHA-256 of one file, or of the digests of several in the order of their names."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()
