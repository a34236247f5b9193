# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance of a network's features as a metric of sets, with the kernel distance beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from genaccel.eval._sets.extractors import Extractor
from genaccel.eval._sets.kernel import kernel_value
from genaccel.eval._sets.set_features import SetFeatures
from genaccel.eval._sets.set_metrics import SetMetric
from genaccel.eval._sets.set_values import SetValue, frechet_value
from genaccel.eval.metrics import Metric

Kid = Annotated[
    bool, typer.Option("--kid", help="Give the kernel distance (KID) of the same features too.")
]


def frechet_metric(metric: Metric, extractor: Extractor, *, with_kid: bool) -> SetMetric:
    """The Frechet distance of a network's features.

    Args:
        metric: What its values mean.
        extractor: The network.
        with_kid: Give the kernel distance as a detail, of 100 subsets of 1000 images as ``kid`` does.
    """

    def both(real: SetFeatures, fake: SetFeatures) -> SetValue:
        frechet, kernel = frechet_value(real, fake), kernel_value(real, fake)
        return replace(
            frechet,
            details={
                **frechet.details,
                "kid": kernel.value,
                "kid_standard_deviation": kernel.details["standard_deviation"],
            },
            warnings=[*frechet.warnings, *kernel.warnings],
            settings={f"kid_{name}": value for name, value in kernel.settings.items()},
        )

    return SetMetric(
        metric=metric,
        extractor=extractor,
        function=both if with_kid else frechet_value,
        needs_features=with_kid,
        settings={"kid_subsets": 100, "kid_subset_size": 1000, "kid_subset_seed": 0}
        if with_kid
        else {},
    )
