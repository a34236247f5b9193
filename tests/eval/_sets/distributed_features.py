# SPDX-License-Identifier: Apache-2.0
"""Features of a folder, for ``torchrun``: FOLDER OUT strict|lenient. Started by test_distributed.py."""

import sys
from pathlib import Path

import numpy as np
import torch

from genaccel.eval._sets.extractors import Extractor, Prepare
from genaccel.eval._sets.image_sources import FileImages
from genaccel.eval._sets.processes import process_group
from genaccel.eval._sets.set_features import extract_features


def corner_pixels(images: torch.Tensor) -> torch.Tensor:
    return images[:, :, :2, :2].flatten(1)


if __name__ == "__main__":
    extractor = Extractor(
        name="corner",
        dimensions=12,
        network=corner_pixels,
        prepare=Prepare(side=16, resize="bilinear"),
        weights="",
        device=torch.device("cpu"),
    )
    source = FileImages.from_folder(Path(sys.argv[1]), strict=sys.argv[3] == "strict")
    with process_group(extractor.device) as processes:
        result = extract_features(
            source, extractor, keep_features=True, batch_size=3, processes=processes
        )
        if processes.is_main:
            np.savez(
                sys.argv[2],
                features=result.features,
                mean=result.statistics.mean,
                covariance=result.statistics.covariance,
                skipped=list(result.skipped),
            )
