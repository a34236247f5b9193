# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
from numpy.typing import NDArray

from genaccel.eval._rate.classical_codecs import decode_classical, encode_classical
from genaccel.eval.demo import (
    PhotographResult,
    codec_means,
    contact_sheet,
    run_demo,
    to_json,
)
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.psnr import psnr


class PoorWebp:
    """A codec with the two methods that the comparison needs."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        self.calls.append("encode")
        return encode_classical(image, "webp", quality=0)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        self.calls.append("decode")
        return decode_classical(data)


def _mean_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.fixture(scope="module")
def photographs() -> dict[str, NDArray[np.uint8]]:
    photographs = held_out_photographs()
    # Larger than a tile both ways, and smaller.
    return {"rocket": photographs["rocket"], "coffee": photographs["coffee"][:170, :170].copy()}


@pytest.fixture(scope="module")
def results(photographs: dict[str, NDArray[np.uint8]]) -> list[PhotographResult]:
    return list(run_demo(PoorWebp(), photographs, st_lpips=_mean_error))


def test_each_photograph_is_measured_with_each_codec(
    results: list[PhotographResult], photographs: dict[str, NDArray[np.uint8]]
) -> None:
    assert [row.measurements[0].photograph for row in results] == ["rocket", "coffee"]
    for result, original in zip(results, photographs.values(), strict=True):
        assert [row.codec for row in result.measurements] == ["genaccel", "JPEG", "WebP", "AVIF"]
        ours, jpeg, webp, _ = result.measurements
        for row, image in zip(result.measurements, result.reconstructions, strict=True):
            assert (row.height, row.width) == original.shape[:2]
            assert row.psnr == psnr(original, image)
            assert row.st_lpips == _mean_error(original, image)
            assert row.bits_per_pixel == pytest.approx(8 * row.num_bytes * 3 / original.size)
            assert row.encode_ms > 0
            assert row.decode_ms > 0
        # The same encoder at the same size makes the same file; JPEG cannot make one as small and as good.
        assert (webp.num_bytes, webp.psnr, webp.quality) == (ours.num_bytes, ours.psnr, 0)
        assert jpeg.ms_ssim < ours.ms_ssim
        assert ours.quality is None


def test_the_codec_runs_once_unmeasured(photographs: dict[str, NDArray[np.uint8]]) -> None:
    codec = PoorWebp()
    next(run_demo(codec, photographs, st_lpips=None))
    assert codec.calls == ["encode", "decode"] * 2


def test_means_are_over_photographs(results: list[PhotographResult]) -> None:
    ours = codec_means(results)[0]
    rows = [result.measurements[0] for result in results]
    assert ours.codec == "genaccel"
    assert ours.psnr == pytest.approx((rows[0].psnr + rows[1].psnr) / 2)
    assert ours.bits_per_pixel == pytest.approx(
        (rows[0].bits_per_pixel + rows[1].bits_per_pixel) / 2
    )
    with pytest.raises(ValueError, match="at least one photograph"):
        codec_means([])


def test_the_sheet_shows_the_pixels(
    results: list[PhotographResult], photographs: dict[str, NDArray[np.uint8]]
) -> None:
    sheet = np.asarray(contact_sheet(results))
    # Tiles of 384x288 under labels of 44 pixels, 8 pixels apart.
    assert sheet.shape == (2 * (288 + 44 + 8) + 8, 5 * (384 + 8) + 8, 3)
    top, left = (427 - 288) // 2, (640 - 384) // 2
    for column, image in enumerate([photographs["rocket"], *results[0].reconstructions]):
        x = 8 + column * (384 + 8)
        np.testing.assert_array_equal(
            sheet[52 : 52 + 288, x : x + 384], image[top : top + 288, left : left + 384]
        )
        assert (sheet[8:52, x : x + 384] < 128).any()  # a label
    y = 8 + (288 + 44 + 8) + 44
    np.testing.assert_array_equal(sheet[y : y + 170, 8 : 8 + 170], photographs["coffee"])


def test_the_report_holds_every_figure(results: list[PhotographResult]) -> None:
    report = json.loads(to_json(results))
    assert len(report["measurements"]) == 8
    assert [mean["codec"] for mean in report["means"]] == ["genaccel", "JPEG", "WebP", "AVIF"]
    assert report["measurements"][0]["bits_per_pixel"] == results[0].measurements[0].bits_per_pixel
    assert report["versions"]["pillow"]
