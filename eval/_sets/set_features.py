# SPDX-License-Identifier: Apache-2.0
"""Features of a set of images, or what a file keeps of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from genaccel.eval._sets.extractors import Extractor
from genaccel.eval._sets.frechet import FEW_IMAGES
from genaccel.eval._sets.image_sources import ArrayImages, FileImages, ImageSource
from genaccel.eval._sets.moments import Moments, Statistics, load_kept_features
from genaccel.eval._sets.processes import Processes
from genaccel.eval.images import decoding_workers


@dataclass(frozen=True, kw_only=True)
class SetFeatures:
    """A set of images as its features show it.

    Attributes:
        name: Of the source.
        statistics: Mean and covariance of its features.
        features: ``[N, D]`` in the order of the images; None for a file of statistics, and for sets
            that were too large to keep.
        skipped: Reason by name of the files that could not be used.
    """

    name: str
    statistics: Statistics
    features: NDArray[np.float32] | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    def save(
        self, path: Path, tile: int | None, *, with_features: bool = False, overwrite: bool = False
    ) -> None:
        """Write an ``.npz`` that :func:`load_statistics` reads, and pytorch-fid too.

        Args:
            path: Where it shall be.
            tile: Side of the tiles that images were cut into.
            with_features: Keep the features of each image beside their statistics.
            overwrite: Replace a file that is there already.

        Raises:
            OSError: If it cannot be written.
            ValueError: If the features are to be kept and are not known.
        """
        provenance = {
            **self.statistics.provenance,
            "tile": tile,
            "source": self.name,
            "skipped": dict(self.skipped),
        }
        replace(self.statistics, provenance=provenance).save(
            path, features=self.of_each_image if with_features else None, overwrite=overwrite
        )

    @property
    def of_each_image(self) -> NDArray[np.float32]:
        """The features ``[N, D]``, of a metric that cannot do without.

        Raises:
            ValueError: If they were not kept.
        """
        if self.features is None:
            raise ValueError(f"{self.name}: only mean and covariance of the features are known")
        return self.features


def extract_features(
    source: ImageSource,
    extractor: Extractor,
    *,
    keep_features: bool = False,
    batch_size: int = 50,
    workers: int | None = None,
    processes: Processes | None = None,
) -> SetFeatures:
    """Run a network over a set of images.

    With several processes each takes a share of the batches, and all get the same result, equal to that
    of one process but for the order in which float64 sums are taken.

    Args:
        source: The images.
        extractor: The network.
        keep_features: Keep the features of all images; otherwise only of sets below 2048, whose
            statistics need a correction, so that memory stays the same for any number of images.
        batch_size: Images in one call of the network.
        workers: Processes that decode; by default none for a few images.
        processes: The group, from :func:`genaccel.eval._sets.processes.process_group`.

    Raises:
        ValueError: If fewer than two images could be used, or a strict source refuses one.
    """
    processes = processes or Processes()
    workers = decoding_workers(source.num_images or FEW_IMAGES) if workers is None else workers
    moments = Moments(extractor.dimensions, extractor.device)
    kept: list[tuple[int, NDArray[np.float32]]] = []
    skipped: dict[str, str] = {}
    digests: set[bytes] = set()
    failure = ""
    try:
        for batch in source.batches(
            extractor.prepare, batch_size=batch_size, processes=processes, workers=workers
        ):
            skipped.update(batch.skipped)
            digests.update(batch.digests)
            if not batch.images.numel():
                continue
            for images in batch.images.split(batch_size):
                features = extractor(images)  # [B, D]
                moments.update(features)
                if keep_features or moments.count < FEW_IMAGES:
                    kept.append((batch.number, features.cpu().numpy()))
                else:
                    kept.clear()
    except ValueError as error:
        if processes.world_size == 1:
            raise
        failure = str(error)
    if processes.world_size > 1:
        # All leave together: one that raised alone would leave the others waiting for its sums.
        failures = [text for text in processes.gather(failure) if text]
        if failures:
            raise ValueError(failures[0])
        moments.all_reduce()
        digests = set().union(*processes.gather(digests))
        skipped = {k: v for part in processes.gather(skipped) for k, v in part.items()}
        if keep_features or moments.count < FEW_IMAGES:
            kept = [item for part in processes.gather(kept) for item in part]
            kept.sort(key=lambda item: item[0])
        else:
            kept = []
    try:
        statistics = moments.statistics(extractor.provenance, frozenset(digests))
    except ValueError as error:
        first = next((f"; {name}: {why}" for name, why in skipped.items()), "")
        raise ValueError(f"{source.name}: {error}{first}") from error
    features_of_all = np.concatenate([part for _, part in kept]) if kept else None
    return SetFeatures(
        name=source.name, statistics=statistics, features=features_of_all, skipped=skipped
    )


def load_statistics(
    path: Path, extractor: Extractor, tile: int | None = None, *, with_features: bool = False
) -> SetFeatures:
    """A set known by its file alone.

    Args:
        path: Of :meth:`SetFeatures.save` or of pytorch-fid.
        extractor: Whose features it must hold.
        tile: Side of the tiles that its images must have been cut into.
        with_features: Whether the features of each image are needed, too.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it holds no statistics, or those of another network or preparation.
    """
    statistics = Statistics.load(path)
    if statistics.mean.size != extractor.dimensions:
        raise ValueError(
            f"{path} has {statistics.mean.size} features, {extractor.name} has {extractor.dimensions}"
        )
    # A file of pytorch-fid says nothing about its making; it is taken at its word.
    if statistics.provenance:
        expected = {**extractor.provenance, "tile": tile}
        for key, wanted in expected.items():
            found = statistics.provenance.get(key)
            if found != wanted:
                raise ValueError(f"{path} was made with {key} {found}, this run has {wanted}")
    features = load_kept_features(path, extractor.dimensions) if with_features else None
    return SetFeatures(name=str(path), statistics=statistics, features=features)


@dataclass(frozen=True, kw_only=True)
class FeatureCache:
    """A folder of features, so that the same images go through the same network once.

    Attributes:
        folder: Where they are kept; it is made when needed.
        tile: Side of the tiles that images are cut into.
    """

    folder: Path
    tile: int | None = None

    def path(self, source: FileImages | ArrayImages, extractor: Extractor, batch_size: int) -> Path:
        """The file for some images: its name is made of all that features depend on, to the last digit."""
        made_of = {
            "images": source.content_digest(),
            "convert": isinstance(source, FileImages) and source.convert,
            "tile": self.tile,
            # Another number of images in a call, or another device, moves features by rounding.
            "batch_size": batch_size,
            "device": extractor.device.type,
            "torch": torch.__version__,
            **extractor.provenance,
        }
        text = json.dumps(made_of, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"

    def extract(
        self,
        source: FileImages | ArrayImages,
        extractor: Extractor,
        *,
        batch_size: int,
        workers: int | None,
        processes: Processes,
    ) -> SetFeatures:
        """:func:`extract_features` with all features kept, or what an earlier call of it gave."""
        path = self.path(source, extractor, batch_size)
        known = self._known(path, source, extractor)
        if all(processes.gather(known is not None)) and known is not None:
            return known
        found = extract_features(
            source,
            extractor,
            keep_features=True,
            batch_size=batch_size,
            workers=workers,
            processes=processes,
        )
        if processes.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            found.save(path, self.tile, with_features=True, overwrite=True)
        return found

    def _known(
        self, path: Path, source: FileImages | ArrayImages, extractor: Extractor
    ) -> SetFeatures | None:
        if not path.is_file():
            return None
        try:
            found = load_statistics(path, extractor, self.tile, with_features=True)
        except (OSError, ValueError):  # damaged: it is made anew
            return None
        skipped = found.statistics.provenance.get("skipped", {})
        if skipped and getattr(source, "strict", False):
            return None
        return replace(found, name=source.name, skipped=skipped)
