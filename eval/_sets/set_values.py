# SPDX-License-Identifier: Apache-2.0
"""Results of metrics of sets, and the Frechet distance as one, with all that must stand beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genaccel.eval._sets.frechet import (
    FEW_IMAGES,
    MIN_IMAGES_FOR_LIMIT,
    few_images_warning,
    frechet_distance,
    frechet_limit,
)
from genaccel.eval._sets.set_features import SetFeatures


@dataclass(frozen=True, kw_only=True)
class SetValue:
    """A metric's result.

    Attributes:
        value: The number.
        details: Further numbers by name; None for one that these sets do not give.
        warnings: Sentences that a reader of the number must know.
        settings: What was done otherwise than asked for, because of the sets.
    """

    value: float
    details: Mapping[str, float | int | str | None] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def frechet_value(real: SetFeatures, fake: SetFeatures) -> SetValue:
    """Frechet distance of two sets; for few generated images also its limit for many.

    The limit is left out where it says nothing, and a detail ``no_limit_because`` says why: where the sets share
    images, for the distance of a set to itself is no line in 1/N, and where it comes out negative.

    Raises:
        ValueError: If the numbers of features differ.
    """
    value = frechet_distance(real.statistics, fake.statistics)
    counts = [features.statistics.num_images for features in (real, fake)]
    known = [count for count in counts if count is not None]
    details: dict[str, float | int | str | None] = {}
    shared = len(real.statistics.digests & fake.statistics.digests)
    num_fake = counts[1]
    if num_fake is not None and num_fake < FEW_IMAGES:
        limit, reason = None, ""
        if shared:
            reason = f"the sets share {_images(shared)}"
        elif num_fake < MIN_IMAGES_FOR_LIMIT:
            reason = f"{_images(num_fake)} give no line to extrapolate"
        elif fake.features is None:
            reason = "the features of the generated images are not known"
        else:
            limit = frechet_limit(real.statistics, fake.features)
            if limit is not None and limit.value < 0:
                limit, reason = None, "the extrapolation comes out negative"
        if limit is not None:
            details = {"at_infinitely_many_images": limit.value, "bias": limit.bias}
        else:
            details = {"no_limit_because": reason}
    has_limit = "at_infinitely_many_images" in details
    warnings = few_images_warning(min(known), has_limit=has_limit) if known else []
    if shared:
        warnings.append(f"the sets share {_images(shared)}, which brings them closer than they are")
    return SetValue(value=value, details=details, warnings=warnings)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
