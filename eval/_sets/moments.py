# SPDX-License-Identifier: Apache-2.0
"""Mean and covariance of features, summed up batch by batch, and their files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray
from torch import Tensor

from genaccel.files.atomic import atomic_stream

# Key of the JSON text that says how the features were made; pytorch-fid does not look at it.
_PROVENANCE_KEY = "genaccel"
_DIGESTS_KEY = "image_digests"
_FEATURES_KEY = "features"
DIGEST_BYTES = 16
# Of all arrays but kept features; 8,192 features, more than any network here has, take half of it.
_MAX_BYTES = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """A Gaussian fitted to features.

    Attributes:
        mean: ``[D]``, float64.
        covariance: ``[D, D]``, float64, with divisor N - 1.
        provenance: How the features were made: ``extractor``, ``resize``, ``num_images``...; empty for a
            file of pytorch-fid, which does not say.
        digests: Of the pixels of each image, 16 bytes; empty where they are not known.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    digests: frozenset[bytes] = frozenset()

    @property
    def num_images(self) -> int | None:
        """Number of images, where it is known."""
        return self.provenance.get("num_images")

    def save(
        self,
        path: Path,
        *,
        features: NDArray[np.float32] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write an ``.npz`` with ``mu`` and ``sigma``, which pytorch-fid reads too.

        Args:
            path: Where it shall be.
            features: Of each image ``[N, D]``, to be kept beside them.
            overwrite: Replace a file that is there already.

        Raises:
            FileExistsError: If the file exists and ``overwrite`` is off.
        """
        arrays: dict[str, Any] = {"mu": self.mean, "sigma": self.covariance}
        arrays[_PROVENANCE_KEY] = np.array(json.dumps(dict(self.provenance)))
        if self.digests:
            joined = np.frombuffer(b"".join(sorted(self.digests)), np.uint8)
            arrays[_DIGESTS_KEY] = joined.reshape(-1, DIGEST_BYTES)
        if features is not None:
            arrays[_FEATURES_KEY] = features
        with atomic_stream(path, overwrite=overwrite) as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read an ``.npz`` of this class or of pytorch-fid.

        Raises:
            OSError: If the file cannot be opened.
            ValueError: If it holds no statistics.
        """
        try:
            with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
                # Before anything is allocated: a file of a kilobyte may unpack to all of memory.
                parts = [p for p in archive.infolist() if p.filename != f"{_FEATURES_KEY}.npy"]
                if sum(part.file_size for part in parts) > _MAX_BYTES:
                    raise ValueError(f"its arrays take more than {_MAX_BYTES >> 20} MiB")
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                missing = [key for key in ("mu", "sigma") if key not in file]
                if missing:
                    raise ValueError(f"it has no array {' and no array '.join(missing)}")
                mean = file["mu"].astype(np.float64)
                covariance = file["sigma"].astype(np.float64)
                text = str(file[_PROVENANCE_KEY]) if _PROVENANCE_KEY in file else "{}"
                rows = file[_DIGESTS_KEY] if _DIGESTS_KEY in file else np.empty((0, DIGEST_BYTES))
            provenance = json.loads(text)
            if not isinstance(provenance, dict):
                raise ValueError("its provenance is no JSON object")
            if rows.ndim != 2 or rows.shape[1] != DIGEST_BYTES:
                raise ValueError(f"its digests of images have shape {rows.shape}")
            digests = frozenset(row.tobytes() for row in rows.astype(np.uint8))
        except OSError:
            raise
        except Exception as error:  # of a damaged archive numpy and zipfile raise whatever it trips
            raise ValueError(
                f"{path} holds no statistics of features ({error}); "
                "--save-statistics writes such a file from a folder of images"
            ) from error
        if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
            raise ValueError(
                f"{path} holds no statistics of features: mu has shape {mean.shape}, "
                f"sigma {covariance.shape}"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError(f"{path} holds values that are not finite")
        return cls(mean=mean, covariance=covariance, provenance=provenance, digests=digests)


def load_kept_features(path: Path, dimensions: int) -> NDArray[np.float32]:
    """The features ``[N, D]`` that :meth:`Statistics.save` kept in an ``.npz``.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it holds none of as many dimensions.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            features = file[_FEATURES_KEY].astype(np.float32)
    except OSError:
        raise
    except Exception as error:  # MemoryError too: a header may ask for any amount
        raise ValueError(f"{path} holds no features of images ({error})") from error
    if features.ndim != 2 or features.shape[1] != dimensions or not np.isfinite(features).all():
        raise ValueError(
            f"{path} must hold finite features [N, {dimensions}], got {list(features.shape)}"
        )
    return features


class Moments:
    """Running sums of features and of their products, in float64: memory does not grow with images.

    Args:
        dimensions: Number of features D.
        device: Where the sums are kept.
    """

    def __init__(self, dimensions: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.total = torch.zeros(dimensions, dtype=torch.float64, device=device)
        self.products = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> None:
        """Add a batch ``[B, D]``."""
        x = features.double()
        self.count += x.shape[0]
        self.total += x.sum(0)
        self.products.addmm_(x.T, x)

    def all_reduce(self) -> None:
        """Add up the sums of all processes of the default group."""
        count = torch.tensor([self.count], dtype=torch.int64, device=self.total.device)
        for tensor in (count, self.total, self.products):
            distributed.all_reduce(tensor)
        self.count = int(count)

    def statistics(
        self,
        provenance: Mapping[str, Any] | None = None,
        digests: frozenset[bytes] = frozenset(),
    ) -> Statistics:
        """Mean and covariance.

        Raises:
            ValueError: If there are fewer than two images, or features that are not finite.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two images, got {self.count}")
        if not (self.total.isfinite().all() and self.products.isfinite().all()):
            raise ValueError(
                "the network gives features that are not finite: its weights are damaged"
            )
        mean = self.total / self.count
        covariance = (self.products - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Statistics(
            mean=mean.cpu().numpy(),
            covariance=covariance.cpu().numpy(),
            provenance={**(provenance or {}), "num_images": self.count},
            digests=digests,
        )
