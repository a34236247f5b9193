# SPDX-License-Identifier: Apache-2.0
"""Finding the public ImageNet weights that metrics and backbones start from.

They are not part of this package. A file is looked for where torchvision would keep it, and downloaded
there, so that both share one copy; torchvision itself is not needed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """A public weight file.

    Attributes:
        url: Where it is published; the last part is the file's name.
        sha256_prefix: First digits of the SHA-256 of its content, as in its name.
    """

    url: str
    sha256_prefix: str

    @property
    def file_name(self) -> str:
        """Name under which it is published and kept."""
        return self.url.rsplit("/", 1)[1]


_TORCHVISION = "https://download.pytorch.org/models/"
_PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"

# name -> file; those of torchvision are its IMAGENET1K_V1, which LPIPS and DISTS were calibrated on
WEIGHT_FILES: Mapping[str, WeightFile] = {
    "alexnet": WeightFile(url=_TORCHVISION + "alexnet-owt-7be5be79.pth", sha256_prefix="7be5be79"),
    "mobilenet_v2": WeightFile(
        url=_TORCHVISION + "mobilenet_v2-b0353104.pth", sha256_prefix="b0353104"
    ),
    "squeezenet1_1": WeightFile(
        url=_TORCHVISION + "squeezenet1_1-b8a52dc0.pth", sha256_prefix="b8a52dc0"
    ),
    "vgg16": WeightFile(url=_TORCHVISION + "vgg16-397923af.pth", sha256_prefix="397923af"),
    "fid_inception": WeightFile(
        url=_PYTORCH_FID + "pt_inception-2015-12-05-6726825d.pth", sha256_prefix="6726825d"
    ),
}


def find_weights(name: str, file: str | os.PathLike[str] | None = None) -> Path:
    """The path of a public weight file, downloaded on first use.

    Args:
        name: Key of :data:`WEIGHT_FILES`.
        file: The user's own copy, taken as it is, whatever its content.

    Raises:
        ValueError: If there is no such name, or a kept or downloaded file is not the published one.
        FileNotFoundError: If ``file`` does not exist, or the file is not here and cannot be downloaded;
            the message says where to get it.

    Example:
        >>> find_weights("alexnet").name  # doctest: +SKIP
        'alexnet-owt-7be5be79.pth'
    """
    if name not in WEIGHT_FILES:
        raise ValueError(f"name must be one of {', '.join(WEIGHT_FILES)}, got {name!r}")
    if file is not None:
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(f"there is no weight file {path}")
        return path
    published = WEIGHT_FILES[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file_name
    if not path.is_file():
        _download(name, published, path)
    elif not _has_prefix(path, published.sha256_prefix):
        # An interrupted copy, most likely; torch.hub itself never leaves half a file behind.
        raise ValueError(
            f"{path} is damaged: its SHA-256 does not start with {published.sha256_prefix}; "
            "delete it, and it is downloaded again"
        )
    return path


def identify_weights(name: str, path: Path) -> tuple[str, list[str]]:
    """What a weight file is, by its content.

    Args:
        name: Key of :data:`WEIGHT_FILES`.
        path: From :func:`find_weights`.

    Returns:
        Its SHA-256, and the sentence that must stand beside values unless it is the published file.

    Raises:
        OSError: If it cannot be opened.
    """
    digest = _sha256(path)
    published = WEIGHT_FILES[name]
    if digest.startswith(published.sha256_prefix):
        return digest, []
    warning = (
        f"{path} is not the published {published.file_name}: its SHA-256 is {digest}. "
        "Values are comparable only with others of the same weights"
    )
    return digest, [warning]


def _has_prefix(path: Path, prefix: str) -> bool:
    return _sha256(path).startswith(prefix)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(name: str, published: WeightFile, path: Path) -> None:
    # Standard output belongs to the values of a metric.
    print(f"downloading {published.url} to {path}", file=sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            published.url, str(path), hash_prefix=published.sha256_prefix, progress=True
        )
    except (OSError, HTTPException) as error:
        raise FileNotFoundError(
            f"the weights of {name} are not here and could not be downloaded ({error}): get "
            f"{published.url} and give it with --weights FILE, or put it into {path.parent}"
        ) from error
    except RuntimeError as error:  # torch.hub found another hash, and kept nothing
        raise ValueError(f"{published.url} did not arrive as published: {error}") from error


def load_features(name: str, file: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """The convolutional part of a classifier: its entries ``features.*``, without that prefix.

    Args:
        name: Key of :data:`WEIGHT_FILES`.
        file: As for :func:`find_weights`; a file without the classifier's entries will do.

    Raises:
        ValueError: As :func:`find_weights`, or if the file holds no such entries.
        FileNotFoundError: As :func:`find_weights`.
    """
    path = find_weights(name, file)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the unpickler stumbles over garbage in any way there is
        raise ValueError(f"{path} is not a weight file of PyTorch") from error
    prefix = "features."
    features = (
        {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)
        }
        if isinstance(state, Mapping)
        else {}
    )
    if not features:
        raise ValueError(f"{path} is not a state dict of torchvision's {name}: no features.* in it")
    return features
