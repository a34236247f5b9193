# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli.eval import app
from genaccel.eval._pairs.pair_metrics import load_paired_metric
from genaccel.eval._rate.classical_codecs import decode_classical, encode_classical
from genaccel.eval._rate.operating_points import CodedImage, Coder, OperatingPoint, parse_codec
from genaccel.eval._rate.sweep import load_originals, sweep
from genaccel.eval.bjontegaard_delta import Curve, bd_rate
from genaccel.eval.images import load_image
from genaccel.eval.psnr import psnr
from genaccel.eval.rate_distortion import main, rate_distortion

METRICS = [load_paired_metric("psnr")]
QUALITIES = (5, 15, 40, 75)


@pytest.fixture
def originals(picture_folder: Callable[..., Path]) -> Path:
    return picture_folder("originals", 3, seed=0)


@pytest.fixture
def points() -> list[OperatingPoint]:
    numbers = ",".join(map(str, QUALITIES))
    return [point for kind in ("jpeg", "webp") for point in parse_codec(f"{kind}:{numbers}")]


def _image(originals: Path, name: str) -> NDArray[np.uint8]:
    return load_image(originals / f"{name}.png").pixels


class Counting:
    """Points that note the images they code, and fail on some."""

    def __init__(self, failing: dict[str, str] | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self.failing = failing or {}

    def __call__(self, point: OperatingPoint) -> OperatingPoint:
        coder = point.load()

        def code(name: str, image: NDArray[np.uint8]) -> CodedImage:
            self.calls.append((point.title, name))
            if self.failing.get(name) == point.title:
                raise ValueError("it is broken")
            return coder(name, image)

        def load() -> Coder:
            return code

        return replace(point, load=load)


def _without_times(content: dict[str, Any]) -> dict[str, Any]:
    text = json.loads(json.dumps(content))
    del text["environment"]["date"]
    for codec in text["codecs"]:
        for point in codec["points"]:
            del point["encode_seconds"], point["decode_seconds"]
    return text


def test_points_are_means_over_real_files(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    content = rate_distortion(points, str(originals), METRICS, tmp_path / "run", num_pictures=2)
    assert content["genaccel_eval"] == 1
    assert content["kind"] == "rate_distortion"
    assert content["metrics"]["psnr"]["unit"] == "dB"
    assert [codec["codec"] for codec in content["codecs"]] == ["JPEG", "WebP"]
    jpeg = content["codecs"][0]["points"]
    assert [point["setting"] for point in jpeg] == [f"quality {q}" for q in QUALITIES]
    files, values = {}, {}
    for name in ("000", "001", "002"):
        image = _image(originals, name)
        files[name] = encode_classical(image, "jpeg", quality=15)
        values[name] = psnr(image, decode_classical(files[name]))
    point = jpeg[1]
    assert point["num_bytes"] == sum(map(len, files.values()))
    assert point["bits_per_pixel"] == pytest.approx(8 * point["num_bytes"] / (3 * 80 * 64))
    assert point["metrics"]["psnr"] == pytest.approx(fmean(values.values()))
    assert point["images"]["001"] == {
        "bits_per_pixel": 8 * len(files["001"]) / (80 * 64),
        "num_bytes": len(files["001"]),
        "psnr": values["001"],
    }
    assert point["encode_seconds"] > 0
    assert content["skipped"] == {}
    assert content["settings"]["num_images"] == 3


def test_the_record_and_the_pictures_are_files(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    content = rate_distortion(points, str(originals), METRICS, out, num_pictures=2, label="x")
    assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(content))
    assert not (out / "partial.json").exists()
    assert [picture["name"] for picture in content["pictures"]] == ["000", "001"]
    picture = content["pictures"][1]
    image = _image(originals, "001")
    np.testing.assert_array_equal(np.asarray(Image.open(out / picture["original"])), image)
    assert len(picture["versions"]) == 8
    version = picture["versions"][5]
    assert (version["label"], version["codec"]) == ("WebP, quality 15", "WebP")
    data = encode_classical(image, "webp", quality=15)
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / version["file"])), decode_classical(data)
    )
    assert version["bits_per_pixel"] == 8 * len(data) / (80 * 64)
    assert version["metrics"]["psnr"] == psnr(image, decode_classical(data))


def test_bd_rates_are_those_of_the_mean_curves(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    content = rate_distortion(
        [*points, *parse_codec("avif:30")],
        str(originals),
        METRICS,
        tmp_path,
        anchor="jpeg",
        min_overlap=0.0,
    )
    curves = [
        Curve(
            rates=[point["bits_per_pixel"] for point in codec["points"]],
            qualities=[point["metrics"]["psnr"] for point in codec["points"]],
        )
        for codec in content["codecs"][:2]
    ]
    webp, avif = content["bd_rates"]
    assert (webp["codec"], webp["anchor"], webp["metric"]) == ("WebP", "JPEG", "psnr")
    assert webp["percent"] == bd_rate(*curves, force=True).percent
    assert webp["interval"] == list(bd_rate(*curves, force=True).interval)
    assert webp["reason"] == ""
    assert (avif["percent"], avif["interval"]) == (None, None)
    assert avif["reason"] == "the test curve must have at least 4 points, got 1"


def test_an_image_that_fails_once_is_left_out_everywhere_and_named(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    counting = Counting({"001": "WebP at quality 15"})
    content = rate_distortion(
        [counting(point) for point in points], str(originals), METRICS, tmp_path, num_pictures=3
    )
    assert content["skipped"] == {"001": "WebP at quality 15: it is broken"}
    assert content["settings"]["num_images"] == 2
    for codec in content["codecs"]:
        for point in codec["points"]:
            assert list(point["images"]) == ["000", "002"]
    assert [picture["name"] for picture in content["pictures"]] == ["000", "002"]
    with pytest.raises(ValueError, match="WebP at quality 15 on 001: it is broken"):
        rate_distortion(
            [counting(point) for point in points],
            str(originals),
            METRICS,
            tmp_path / "other",
            strict=True,
        )


def test_images_that_a_metric_cannot_judge_are_named(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    metrics = [*METRICS, load_paired_metric("ms-ssim")]
    with pytest.raises(
        ValueError, match="JPEG at quality 5 failed on every image; 000: MS-SSIM needs images of"
    ):
        rate_distortion(points, str(originals), metrics, tmp_path)
    Image.fromarray(np.tile(_image(originals, "000"), (3, 3, 1))).save(originals / "large.png")
    content = rate_distortion(points, str(originals), metrics, tmp_path)
    assert list(content["skipped"]) == ["000", "001", "002"]
    assert list(content["codecs"][0]["points"][0]["images"]) == ["large"]


def test_every_point_needs_one_image_that_no_other_fails_on(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    failing = dict(zip(("000", "001", "002"), (point.title for point in points), strict=False))
    counting = Counting(failing)
    with pytest.raises(ValueError, match="no image was coded and judged at every point; 000: JPEG"):
        rate_distortion([counting(point) for point in points], str(originals), METRICS, tmp_path)


def test_another_size_than_the_original_is_a_failure(originals: Path, tmp_path: Path) -> None:
    def code(_name: str, image: NDArray[np.uint8]) -> CodedImage:
        return CodedImage(num_bytes=1, decoded=image[:-1])

    point = OperatingPoint(codec="Cut", setting="1", load=lambda: code)
    with pytest.raises(
        ValueError, match=r"Cut at 1 .*000: the original has shape \(64, 80, 3\), it was"
    ):
        rate_distortion([point], str(originals), METRICS, tmp_path)


def test_an_interrupted_sweep_goes_on_where_it_stopped(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    whole = rate_distortion(points, str(originals), METRICS, tmp_path / "whole", num_pictures=1)

    def interrupt() -> Coder:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    broken = [*points[:5], replace(points[5], load=interrupt), *points[6:]]
    with pytest.raises(KeyboardInterrupt):
        rate_distortion(broken, str(originals), METRICS, out, num_pictures=1)
    assert (out / "partial.json").exists()
    assert not (out / "run.json").exists()
    counting = Counting()
    again = rate_distortion(
        [counting(point) for point in points], str(originals), METRICS, out, num_pictures=1
    )
    assert {title for title, _ in counting.calls} == {point.title for point in points[5:]}
    assert _without_times(again) == _without_times(whole)
    assert not (out / "partial.json").exists()


@pytest.mark.parametrize(
    "change", ["originals", "metrics", "pictures", "source", "lost", "damaged"]
)
def test_results_of_other_images_or_options_are_not_taken_up(
    originals: Path, points: list[OperatingPoint], tmp_path: Path, change: str
) -> None:
    metrics, num_pictures = METRICS, 1
    sweep(points[:2], load_originals(str(originals)), metrics, tmp_path, num_pictures=1)
    if change == "originals":
        Image.new("RGB", (80, 64)).save(originals / "002.png")
    elif change == "metrics":
        metrics = [load_paired_metric("ssim")]
    elif change == "pictures":
        num_pictures = 2
    elif change == "source":
        points = [replace(point, source="other") for point in points]
    elif change == "lost":
        for file in tmp_path.glob("pictures/000/jpeg*.png"):
            file.unlink()
    else:
        (tmp_path / "partial.json").write_text("{")
    counting = Counting()
    sweep(
        [counting(point) for point in points[:2]],
        load_originals(str(originals)),
        metrics,
        tmp_path,
        num_pictures=num_pictures,
    )
    assert len(counting.calls) == 6


def test_infinite_values_survive_an_interruption_and_are_told_apart_in_the_record(
    originals: Path, tmp_path: Path
) -> None:
    def code(_name: str, image: NDArray[np.uint8]) -> CodedImage:
        return CodedImage(num_bytes=image.size, decoded=image)

    point = OperatingPoint(codec="Raw", setting="all", load=lambda: code)
    images = load_originals(str(originals))
    first = sweep([point], images, METRICS, tmp_path)
    assert sweep([point], images, METRICS, tmp_path) == first
    rate_distortion([point], str(originals), METRICS, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    (found,) = record["codecs"][0]["points"]
    assert found["metrics"] == {"psnr": "Infinity"}
    assert found["num_infinite"] == {"psnr": len(images.read)}
    assert found["pooled"] == {"psnr_of_mean_error": "Infinity"}
    assert {image["psnr"] for image in found["images"].values()} == {"Infinity"}
    assert record["codecs"][0]["points"][0]["encode_seconds"] is None


def test_one_image_without_loss_takes_no_point_off_the_chart(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    def code(name: str, image: NDArray[np.uint8]) -> CodedImage:
        return CodedImage(num_bytes=image.size, decoded=image if name == "000" else image ^ 1)

    raw = OperatingPoint(codec="Raw", setting="all", load=lambda: code)
    content = rate_distortion([*points[:4], raw], str(originals), METRICS, tmp_path)
    (found,) = content["codecs"][1]["points"]
    assert found["metrics"]["psnr"] == pytest.approx(48.1308, abs=1e-4)
    assert found["num_infinite"] == {"psnr": 1}
    assert found["pooled"]["psnr_of_mean_error"] > found["metrics"]["psnr"]
    (row,) = content["bd_rates"]
    assert row["reason"] == "PSNR of Raw at all is infinite for 1 image"


def test_an_earlier_run_is_kept_unless_forced(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    rate_distortion(points[:1], str(originals), METRICS, tmp_path)
    counting = Counting()
    with pytest.raises(FileExistsError, match="--force"):
        rate_distortion([counting(points[0])], str(originals), METRICS, tmp_path)
    assert counting.calls == []
    rate_distortion(points[1:2], str(originals), METRICS, tmp_path, overwrite=True)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["codecs"][0]["points"][0]["setting"] == "quality 15"


def test_wrong_arguments_are_refused(
    originals: Path, points: list[OperatingPoint], tmp_path: Path
) -> None:
    def run(points: list[OperatingPoint], **options: Any) -> None:
        rate_distortion(points, str(originals), METRICS, tmp_path / "run", **options)

    with pytest.raises(ValueError, match="at least one codec"):
        run([])
    with pytest.raises(ValueError, match="anchor must be one of JPEG, WebP, got 'avif'"):
        run(points, anchor="avif")
    with pytest.raises(ValueError, match="min_overlap must be within 0 to 1"):
        run(points, min_overlap=2.0)
    with pytest.raises(ValueError, match="distinct names, got jpeg-quality-5 twice"):
        run([points[0], points[0]])
    with pytest.raises(ValueError, match="num_pictures must not be negative"):
        run(points, num_pictures=-1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        load_originals(str(tmp_path / "empty"))


def test_the_command_runs_a_sweep(originals: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["rate-distortion", str(originals), "--out", str(out), "--metrics", "psnr,ssim"]
    for kind in ("jpeg", "webp"):
        arguments += ["--codec", f"{kind}:5,20,50,75"]
    result = CliRunner().invoke(app, [*arguments, "--json", "--label", "mine", "--pictures", "1"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content == json.loads((out / "run.json").read_text())
    assert content["label"] == "mine"
    assert list(content["metrics"]) == ["psnr", "ssim"]
    assert [row["metric"] for row in content["bd_rates"]] == ["psnr", "ssim"]
    (originals / "small.png").write_bytes(b"no image")
    result = CliRunner().invoke(app, [*arguments, "--force"])
    assert result.exit_code == 6, result.output
    assert "quality 50" in result.stdout
    assert "BD-rate against JPEG" in result.stdout
    assert "1 images left out: small: JPEG at quality 5" in result.stderr


def test_wrong_usage_is_one_sentence(originals: Path, tmp_path: Path) -> None:
    def run(codec: str, **options: Any) -> None:
        main(str(originals), [codec], tmp_path, **options)

    with pytest.raises(typer.BadParameter, match="metric must be one of psnr"):
        run("jpeg:5", metrics="psnr,sharpness")
    with pytest.raises(typer.BadParameter, match="codec must begin with one of"):
        run("png:5")
    with pytest.raises(typer.BadParameter, match="missing is not a folder"):
        main(str(tmp_path / "missing"), ["jpeg:5"], tmp_path, metrics="psnr")


def test_held_out_photographs_can_be_swept() -> None:
    originals = load_originals("held-out")
    assert originals.read["astronaut"]().shape == (512, 512, 3)
    assert originals.digest == load_originals("held-out").digest
    assert originals.digest != load_originals("held-out", convert=True).digest
