# SPDX-License-Identifier: Apache-2.0
"""What the page shows of paired runs: charts, pictures of the worst, and tables; without its script."""

import base64
import html
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from genaccel.eval.psnr import main as psnr_command
from genaccel.eval.report import write_report

sys.path.insert(0, str(Path(__file__).parents[1]))
from report_runs import LPIPS, make_run, paired_run, set_run, write_run

NAMES = [
    "</title><script>document.title='owned'</script>",
    "[/]",
    "\"quotes\" & 'others'",
    "x" * 251,
    "שלום עולם",
    "\N{GRINNING FACE} \N{FAMILY}\N{ZERO WIDTH JOINER}",
    "over\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "line\nbreak\x00\x1b[31m",
]


def _page(folder: Path, runs: list[Any], **options: Any) -> str:
    paths = [write_run(folder, f"run{i}.json", run) for i, run in enumerate(runs)]
    write_report(paths, folder / "out.html", overwrite=True, **options)
    return (folder / "out.html").read_text(encoding="utf-8")


def _pictures(page: str) -> dict[str, Image.Image]:
    """Pictures by their alternative texts."""
    found = re.findall(r'<img src="data:image/\w+;base64,([^"]+)" alt="([^"]+)"', page)
    return {
        html.unescape(alt): Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        for data, alt in found
    }


def _pairs(folder: Path, count: int = 4, side: int = 24) -> dict[str, Any]:
    """A run over flat images, whose results are off by 1, 2, 3, ... in green."""
    values = {}
    for kind in ("orig", "out"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        image = np.full((side, side + 8, 3), 100, np.uint8)
        Image.fromarray(image).save(folder / "orig" / f"im{index}.png")
        image[..., 1] += index + 1
        Image.fromarray(image).save(folder / "out" / f"im{index}.png")
        values[f"im{index}"] = 40.0 - index
    return paired_run(images=values, mean=38.5, sets=["orig", "out"], skipped={})


def test_the_worst_pairs_are_shown_with_their_differences(tmp_path: Path) -> None:
    page = _page(tmp_path, [_pairs(tmp_path)], max_images=2)
    pictures = _pictures(page)
    assert list(pictures) == [
        f"{what} of {name}"
        for name in ("im3", "im2")
        for what in ("Original", "Result", "Difference")
    ]
    assert pictures["Original of im3"].getpixel((3, 3)) == (100, 100, 100)
    assert pictures["Result of im3"].getpixel((3, 3)) == (100, 104, 100)
    # The highest difference is 4, so the scale ends at 255 / 32.
    assert "amplified 32\N{MULTIPLICATION SIGN}" in page
    assert ">8 or more</span>" in page
    lighter, darker = (
        sum(pictures[f"Difference of {name}"].getpixel((3, 3))) for name in ("im3", "im2")
    )
    assert lighter > darker > 0
    assert "2 of 4 pairs, the worst by PSNR first" in page
    # Without a script, the table is sorted too.
    rows = re.findall(r'<th scope="row" class="text"><span class="name" title="(im\d)"', page)
    assert rows == ["im3", "im2", "im1", "im0"]


def test_what_the_command_prints_has_pictures(tmp_path: Path) -> None:
    _pairs(tmp_path)
    app = typer.Typer()
    app.command()(psnr_command)
    arguments = [str(tmp_path / "orig"), str(tmp_path / "out"), "--json"]
    printed = CliRunner().invoke(app, arguments)
    page = _page(tmp_path, [json.loads(printed.stdout)])
    assert next(iter(_pictures(page))) == "Original of im3"
    assert len(_pictures(page)) == 12


def test_large_pictures_are_made_smaller(tmp_path: Path) -> None:
    pictures = _pictures(_page(tmp_path, [_pairs(tmp_path, count=1, side=1300)]))
    assert {picture.size for picture in pictures.values()} == {(640, 636)}


def test_pictures_stop_at_the_budget_and_the_page_says_so(tmp_path: Path) -> None:
    run = _pairs(tmp_path, count=6, side=64)
    page = _page(tmp_path, [run], max_images=5)
    size = sum(map(len, re.findall(r'<img src="([^"]+)"', page)))
    assert "not shown" not in page
    page = _page(tmp_path, [run], max_images=5, max_megabytes=size * 0.7 / 1e6)
    assert len(_pictures(page)) == 9
    assert "2 pictures are not shown" in page
    assert len(_pictures(_page(tmp_path, [run], max_images=0))) == 0
    page = _page(tmp_path, [run], max_megabytes=0)
    assert len(_pictures(page)) == 0
    for options in ({"max_images": -1}, {"max_megabytes": -1.0}, {"max_megabytes": float("nan")}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            _page(tmp_path, [run], **options)


def test_pictures_outside_of_the_folder_need_a_permission(tmp_path: Path) -> None:
    run = _pairs(tmp_path / "images")
    run["sets"] = [str(tmp_path / "images" / kind) for kind in ("orig", "out")]
    (tmp_path / "runs").mkdir()
    page = _page(tmp_path / "runs", [run])
    assert not _pictures(page)
    assert "--pictures-from" in page
    page = _page(tmp_path / "runs", [run], pictures_from=[tmp_path / "images"])
    assert len(_pictures(page)) == 12
    # Nor do links lead out.
    (tmp_path / "runs" / "orig").mkdir()
    (tmp_path / "runs" / "orig" / "im3.png").symlink_to(tmp_path / "images" / "orig" / "im3.png")
    run["sets"] = ["orig", "orig"]
    assert not _pictures(_page(tmp_path / "runs", [run]))


@pytest.mark.parametrize("sets", [["gone", "out"], ["orig", "run0.json"], ["orig", "empty"]])
def test_a_page_is_made_without_pictures_that_are_not_there(
    tmp_path: Path, sets: list[str]
) -> None:
    run = _pairs(tmp_path)
    (tmp_path / "empty").mkdir()
    page = _page(tmp_path, [{**run, "sets": sets}])
    assert not _pictures(page)
    assert "No pictures: " in page
    (tmp_path / "out" / "im3.png").write_bytes(b"nonsense")
    page = _page(tmp_path, [run])
    assert len(_pictures(page)) == 9
    assert "No pictures of im3: " in page


def test_names_of_any_kind_are_text(tmp_path: Path) -> None:
    values = {name: 30.0 + index for index, name in enumerate(NAMES)}
    page = _page(tmp_path, [paired_run(images=values, label=NAMES[0])], title=NAMES[0])
    assert page.count("<script") == 2
    assert "<script>document" not in page
    # Control characters have symbols.
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", page)
    shown = html.unescape(re.sub(r"<[^<>]*>", "", page))
    for name in NAMES[:-1]:
        assert name in shown
        assert f'title="{html.escape(name)}"' in page
    assert "line\u240abreak\u2400\u241b[31m" in shown


def test_infinite_values_are_shown_and_left_out_of_the_mean(tmp_path: Path) -> None:
    images = {"a": 30.0, "b": "Infinity", "c": 34.0, "d": None}
    run = paired_run(images=images, mean="Infinity", mean_of_finite=32.0)
    page = _page(tmp_path, [run])
    assert "<strong>32.00 dB</strong>" in page
    assert "1 image infinite, not in the mean" in page
    assert "1 image without a finite value, not in the mean" in page
    assert 'class="infinite"' in page
    assert re.search(r'class="beyond" style="left: [\d.]+%">\N{INFINITY}</span>', page)
    assert '<data value="inf">\N{INFINITY}</data>' in page
    assert "2 images from 30.00 to 34.00, 1 infinite" in page


@pytest.mark.parametrize("infinity", ["Infinity", "inf", "+Infinity"])
def test_a_run_of_equal_images_has_a_row(tmp_path: Path, infinity: str) -> None:
    run = paired_run(images={"a": infinity}, mean=infinity)
    page = _page(tmp_path, [run])
    assert "<strong>\N{INFINITY} dB</strong>" in page
    assert ">1 image infinite</small>" in page


def test_the_interval_and_deviation_are_those_of_the_run(tmp_path: Path) -> None:
    own = {
        "confidence_interval": [30.5, 31.5],
        "standard_deviation": 0.25,
        "confidence_method": "bootstrap of a test",
    }
    page = _page(tmp_path, [paired_run(images={"a": 30.0, "b": 32.0}, **own)])
    assert "95 % interval 30.50 to 31.50" in page
    assert "standard deviation 0.2500" in page
    assert "(bootstrap of a test)" in page
    page = _page(tmp_path, [paired_run(images={"a": 30.0, "b": 32.0})])
    assert "95 % interval 18.29 to 43.71" in page
    assert "Student" in page


def test_several_runs_of_a_metric_share_a_chart(tmp_path: Path) -> None:
    runs = [paired_run(label=label) for label in ("one", "two")]
    runs.append(paired_run(label="one", metric=LPIPS, images={"kodim01": 0.3}, mean=0.3))
    page = _page(tmp_path, runs)
    charts = re.findall(r'<figure class="spread">.*?</figure>', page, re.S)
    assert [chart.count("<li>") for chart in charts] == [2, 1]
    assert "PSNR, dB" in charts[0]
    assert "higher is better" in charts[0]
    assert "lower is better" in charts[1]
    # Of sets, a single value needs none.
    assert '<figure class="spread">' not in _page(tmp_path, [set_run()])
    both = _page(tmp_path, [set_run(), {**set_run(), "value": "Infinity"}])
    assert both.count('<figure class="spread">') == 1
    assert both.count("a set run (1)") >= 1


def test_warnings_partners_and_provenance_are_shown(tmp_path: Path) -> None:
    run = paired_run(
        warnings=["the weights are not the published ones"],
        unmatched={"orig": ["alone"], "out": []},
        command="genaccel eval psnr orig 'my results'",
        commit="0123456789",
    )
    page = html.unescape(_page(tmp_path, [run]))
    for expected in (
        "the weights are not the published ones",
        "1 without a partner",
        "genaccel eval psnr orig 'my results'",
        "0123456789",
        "2026-01-01",
    ):
        assert expected in page


def test_many_images_are_cut_to_the_worst(tmp_path: Path) -> None:
    values = {f"im{index}": float(index) for index in range(2001)}
    page = _page(tmp_path, [paired_run(images=values)])
    assert "The 2,000 worst of 2,001 images" in page
    assert page.count('<th scope="row"') == 2000 + 1
    assert ">im2000<" not in page


def test_curves_of_several_runs_are_in_one_chart(tmp_path: Path) -> None:
    point = {"setting": "q", "bits_per_pixel": 0.5, "metrics": {"psnr": "Infinity"}}
    metric = {"title": "PSNR", "higher_is_better": True, "unit": "dB"}
    runs = [
        make_run(
            "rate_distortion",
            label="same",
            metrics={"psnr": metric},
            codecs=[{"codec": "JPEG", "points": [point]}],
            settings={"originals": "kodak", "originals_sha256": digest},
        )
        for digest in ("1", "2")
    ]
    page = _page(tmp_path, runs)
    assert "these runs may differ" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert [codec["codec"] for codec in data["runs"][0]["codecs"]] == [
        "JPEG, same (1)",
        "JPEG, same (2)",
    ]
    assert data["runs"][0]["codecs"][0]["points"][0]["metrics"]["psnr"] == {"infinite": 1}
    runs[1]["settings"] = runs[0]["settings"]
    assert "these runs may differ" not in _page(tmp_path, runs)
