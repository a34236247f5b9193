# SPDX-License-Identifier: Apache-2.0
import base64
import hashlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from genaccel.eval.report import main, write_report

sys.path.insert(0, str(Path(__file__).parent))
from report_runs import (
    HOSTILE,
    METRICS,
    PSNR,
    make_run,
    paired_run,
    rate_distortion_run,
    speed_run,
    write_all_kinds,
    write_run,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all_kinds(tmp_path_factory.mktemp("report"))


def _data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


class _Balance(HTMLParser):
    """Fails for elements that are not closed in order, and gathers text and tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attributes if name == "id"]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


def test_page_is_well_formed_and_needs_nothing_else(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    parsed = _Balance(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.tags.count("h1") == 1
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\((?!data:)|<link(?! rel=\"icon\")|<script src", page)
    script = re.search(r"<script>(.*?)</script>", page, re.S)
    assert script
    # No other script may run, whatever a name may have brought onto the page.
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'" in page
    )
    assert "innerHTML" not in page


def test_tables_hold_the_values_without_script(report: Path) -> None:
    text = _Balance(report.read_text(encoding="utf-8")).text
    for expected in (
        "All kinds",
        "\N{MINUS SIGN}23.5",
        "25.50 to 31.00",
        "the curves do not overlap",
        "2.50\N{MULTIPLICATION SIGN}",
        "2.50\N{NO-BREAK SPACE}G",
        "2.00\N{NO-BREAK SPACE}GiB",
        "800\N{NO-BREAK SPACE}ms",
        "odd.png: too deep",
        "1 file was left out",
        "too few images",
        "12.35",
        "1,000",
        '{"a": [1, 2]}',
    ):
        assert expected in text, expected


def test_speed_up_is_the_one_of_the_run_if_it_has_one(tmp_path: Path) -> None:
    run = speed_run()
    # A median of ratios is not the ratio of the medians, and the run knows the former.
    run["sides"][1]["speedup"] = 2.25
    write_report([write_run(tmp_path, "run.json", run)], tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert ">2.25\N{MULTIPLICATION SIGN}</td>" in page
    assert _data(page)["runs"][0]["sides"][1]["speedup"] == 2.25


def test_data_for_the_script_is_embedded(report: Path) -> None:
    data = _data(report.read_text(encoding="utf-8"))
    assert [run["kind"] for run in data["runs"]] == ["rate_distortion", "speed"]
    rate = data["runs"][0]
    assert rate["codecs"][0]["points"][0]["metrics"]["psnr"] is None
    assert [len(picture["versions"]) for picture in rate["pictures"]] == [3, 3]
    assert len(data["pictures"]) == 8
    assert all(picture["src"].startswith("data:image/") for picture in data["pictures"])


def test_pictures_stay_lossless_until_they_are_large(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = {
        "small": np.full((40, 60, 3), 77, np.uint8),
        "middle": random.integers(0, 256, (200, 300, 3), dtype=np.uint8),
        "large": random.integers(0, 256, (700, 700, 3), dtype=np.uint8),
    }
    for name, image in images.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    run = rate_distortion_run(tmp_path)
    run["pictures"] = [{"name": name, "original": f"{name}.png", "versions": []} for name in images]
    write_report([write_run(tmp_path, "run.json", run)], tmp_path / "out.html")
    shown = _data((tmp_path / "out.html").read_text(encoding="utf-8"))["pictures"]
    kinds = [picture["src"].split(";")[0] for picture in shown]
    assert kinds == ["data:image/png", "data:image/webp", "data:image/webp"]
    assert ["WebP of quality 92" in picture["note"] for picture in shown] == [False, False, True]
    for picture, image in zip(shown, images.values(), strict=True):
        assert (picture["height"], picture["width"]) == image.shape[:2]
        decoded = Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",")[1])))
        assert (np.asarray(decoded.convert("RGB")) == image).all() == (picture["note"] == "")


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    rate = rate_distortion_run(tmp_path)
    rate["label"] = rate["codecs"][1]["codec"] = rate["pictures"][0]["name"] = HOSTILE
    paired = paired_run(images={HOSTILE: 1.0}, skipped={HOSTILE: HOSTILE}, label="\ud800")
    paired["environment"] = {HOSTILE: HOSTILE}
    runs = [write_run(tmp_path, "a.json", rate), write_run(tmp_path, "b.json", paired)]
    write_report(runs, tmp_path / "out.html", title=HOSTILE)
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    parsed = _Balance(page)
    assert parsed.tags.count("script") == 2
    assert "img" not in parsed.tags
    assert _data(page)["runs"][0]["codecs"][1]["codec"] == HOSTILE


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("not json", "no JSON file"),
        ("[" * 100_000, "no JSON file"),
        ("[]", 'no "genaccel_eval"'),
        ({"a": 1}, 'no "genaccel_eval"'),
        ({"genaccel_eval": 2, "kind": "set"}, "version 2; this genaccel reads version 1"),
        ({"genaccel_eval": True, "kind": "set"}, "of version true"),
        ({"genaccel_eval": 1, "kind": "other"}, 'must be one of .*got "other"'),
        ({"genaccel_eval": 1, "kind": ["set"]}, "kind must be one of"),
        (paired_run(mean="high"), 'mean must be a number or null, got "high"'),
        (paired_run(mean=True), "mean must be a number or null, got true"),
        (paired_run(images=[1]), r"images must be an object, got \[1\]"),
        (paired_run(metric={"title": "PSNR"}), "metric.higher_is_better is missing"),
        (make_run("paired", mean=1), "metric is missing"),
        (make_run("speed", sides=[{"name": 1}]), r"sides\[0\].name must be a text, got 1"),
    ],
)
def test_files_that_are_no_runs_are_refused_in_one_sentence(
    tmp_path: Path, content: Any, sentence: str
) -> None:
    path = write_run(tmp_path, "run.json", content)
    with pytest.raises(ValueError, match=sentence) as caught:
        write_report([path], tmp_path / "out.html")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("../outside.png", "outside of the run's folder"),
        ("missing.png", "cannot be used"),
        ("run.json", "cannot be used"),
    ],
)
def test_pictures_that_cannot_be_used_are_refused(tmp_path: Path, file: str, sentence: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    run = rate_distortion_run(folder)
    run["pictures"][0]["original"] = file
    with pytest.raises(ValueError, match=sentence):
        write_report([write_run(folder, "run.json", run)], tmp_path / "out.html")


def test_values_that_are_no_numbers_and_huge_ones_are_missing(tmp_path: Path) -> None:
    text = json.dumps(paired_run(images={"a": 1, "b": 2, "c": 3, "d": 4}))
    for number, written in ((1, "NaN"), (2, "1e999"), (3, "9" * 400), (4, "-Infinity")):
        text = re.sub(rf'("[abcd]"): {number}\b', rf"\1: {written}", text, count=1)
    write_report([write_run(tmp_path, "run.json", text)], tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.count('<data value="">\N{EN DASH}</data>') == 3
    assert page.count('<data value="-inf">\N{MINUS SIGN}\N{INFINITY}</data>') == 1


def test_runs_without_any_points_make_a_page(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, "rate.json", make_run("rate_distortion", metrics=METRICS, codecs=[])),
        write_run(tmp_path, "speed.json", make_run("speed", sides=[], label="")),
        write_run(tmp_path, "set.json", make_run("set", metric=PSNR, value=None)),
    ]
    write_report(runs, tmp_path / "out.html")
    assert "<bdi>speed</bdi></h2>" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_existing_pages_and_runs_are_not_overwritten(tmp_path: Path) -> None:
    path, out = write_run(tmp_path, "run.json", paired_run()), tmp_path / "out.html"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        write_report([path], out)
    assert out.read_text() == "mine"
    write_report([path], out, overwrite=True)
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="one of the runs"):
        write_report([path], path, overwrite=True)
    with pytest.raises(ValueError, match="at least one run"):
        write_report([], tmp_path / "other.html")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.html", "run.json"]


def test_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    path, out = write_run(tmp_path, "run.json", paired_run()), tmp_path / "out.html"
    arguments = [str(path), str(path), "--out", str(out), "--title", "Two"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "wrote" in result.output
    assert "<h1>Two</h1>" in out.read_text(encoding="utf-8")
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert CliRunner().invoke(app, [*arguments, "--force"]).exit_code == 0
    assert CliRunner().invoke(app, [str(tmp_path / "no.json"), "--out", str(out)]).exit_code == 2
    assert CliRunner().invoke(app, [str(path)]).exit_code == 2
