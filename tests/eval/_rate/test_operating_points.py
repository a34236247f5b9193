# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaccel.codec.image_codec import ImageCodec
from genaccel.eval._rate.classical_codecs import encode_classical
from genaccel.eval._rate.operating_points import parse_codec
from genaccel.eval.images import load_image


def test_classical_codecs_have_a_point_for_each_quality(
    picture_folder: Callable[..., Path],
) -> None:
    image = load_image(picture_folder("originals", 1, seed=0) / "000.png").pixels
    points = parse_codec("jpeg:5,40")
    assert [point.title for point in points] == ["JPEG at quality 5", "JPEG at quality 40"]
    assert [parse_codec(f"{kind}:1")[0].codec for kind in ("webp", "avif")] == ["WebP", "AVIF"]
    coded = points[1].load()("x", image)
    assert coded.num_bytes == len(encode_classical(image, "jpeg", quality=40))
    assert coded.decoded.shape == image.shape
    assert coded.encode_seconds is not None
    assert coded.decode_seconds is not None


def test_our_codec_takes_names_and_folders(
    picture_folder: Callable[..., Path], tmp_path: Path
) -> None:
    image = load_image(picture_folder("originals", 1, seed=0) / "000.png").pixels
    codec = ImageCodec.from_pretrained()
    codec.model.save_pretrained(tmp_path / "mine")
    default, named = parse_codec(f"genaccel:photo-codec-high,{tmp_path / 'mine'}")
    assert parse_codec("genaccel")[0].source == default.source != named.source
    assert default.title == "genaccel at model photo-codec-high"
    (alias,) = parse_codec("genaccel:photo-codec-small")
    assert alias.title == default.title
    coded = default.load()("x", image)
    data = codec.encode(image)
    assert coded.num_bytes == len(data)
    np.testing.assert_array_equal(coded.decoded, codec.decode(data))
    np.testing.assert_array_equal(named.load()("x", image).decoded, coded.decoded)


def test_results_of_other_codecs_come_from_folders(tmp_path: Path) -> None:
    decoded, files = tmp_path / "decoded", tmp_path / "files"
    for folder in (decoded / "sub", files / "sub"):
        folder.mkdir(parents=True)
    Image.new("RGB", (8, 6), (1, 2, 3)).save(decoded / "sub/a.png")
    (files / "sub/a.bin").write_bytes(bytes(17))
    text = f"folder:Other:step 1={decoded}:{files}"
    (point,) = parse_codec(text)
    assert (point.codec, point.setting) == ("Other", "step 1")
    coder = point.load()
    coded = coder("sub/a", np.zeros((6, 8, 3), np.uint8))
    assert coded.num_bytes == 17
    assert coded.encode_seconds is None
    np.testing.assert_array_equal(coded.decoded, np.full((6, 8, 3), (1, 2, 3)))
    with pytest.raises(ValueError, match=r"decoded has no file of that name"):
        coder("sub/b", np.zeros((6, 8, 3), np.uint8))
    (files / "sub/a.bin").write_bytes(bytes(18))
    assert parse_codec(text)[0].source != point.source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("png:5", "must begin with one of jpeg, webp, avif, genaccel, compressai, folder, got"),
        ("jpeg", "needs whole numbers"),
        ("jpeg:5,", "needs whole numbers"),
        ("jpeg:5,high", "needs whole numbers"),
        ("webp:101", "quality of webp must be within 0 to 100, got 101"),
        ("genaccel:missing", "no model 'missing'"),
        ("folder:Other=a:b", "needs folder:TITLE:SETTING=DECODED_FOLDER:FILES_FOLDER"),
        ("folder:Other:1=a", "needs folder:TITLE:SETTING=DECODED_FOLDER:FILES_FOLDER"),
    ],
)
def test_what_cannot_be_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_codec(text)


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="missing is not a folder"):
        parse_codec(f"folder:Other:1={tmp_path}:{tmp_path}/missing")
