# SPDX-License-Identifier: Apache-2.0
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from genaccel.eval._rate.classical_codecs import (
    ClassicalFormat,
    decode_classical,
    encode_classical,
    encode_to_size,
)
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.psnr import psnr

MAGIC = {"jpeg": (0, b"\xff\xd8\xff"), "webp": (8, b"WEBP"), "avif": (4, b"ftypavif")}


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return held_out_photographs()["chelsea"][:160, :200].copy()


@pytest.mark.parametrize("format", get_args(ClassicalFormat))
def test_the_nearest_size_is_found(image: NDArray[np.uint8], format: ClassicalFormat) -> None:
    # Between the sizes of two neighbouring settings, nearer to the lower one.
    sizes = [len(encode_classical(image, format, quality=quality)) for quality in (50, 51)]
    target = sizes[0] + max(0, (sizes[1] - sizes[0]) // 3)
    file = encode_to_size(image, format, target_bytes=target)
    offset, magic = MAGIC[format]
    assert file.data[offset : offset + len(magic)] == magic
    assert not file.is_floor
    assert abs(len(file.data) - target) <= abs(sizes[0] - target)
    assert psnr(image, decode_classical(file.data)) > 28


@pytest.mark.parametrize("format", get_args(ClassicalFormat))
def test_the_floor_of_a_format_is_said_aloud(
    image: NDArray[np.uint8], format: ClassicalFormat
) -> None:
    file = encode_to_size(image, format, target_bytes=20)
    assert file.is_floor
    assert file.quality == (1 if format == "jpeg" else 0)
    assert len(file.data) > 20


def test_a_large_target_gets_the_best_quality(image: NDArray[np.uint8]) -> None:
    file = encode_to_size(image, "jpeg", target_bytes=10**7)
    assert file.quality == 95
    assert not file.is_floor


def test_bad_arguments_are_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="format must be one of jpeg, webp, avif, got 'gif'"):
        encode_to_size(image, "gif", target_bytes=100)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target_bytes must be at least 1, got 0"):
        encode_to_size(image, "jpeg", target_bytes=0)
    with pytest.raises(ValueError, match="quality of jpeg must be within 1 to 95, got 0"):
        encode_classical(image, "jpeg", quality=0)
