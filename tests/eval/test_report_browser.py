# SPDX-License-Identifier: Apache-2.0
"""The report in a browser: what moves when a user acts, and how it fits the screen."""

import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genaccel.eval.report import write_report

sys.path.insert(0, str(Path(__file__).parent))
from report_runs import (
    HOSTILE,
    LPIPS,
    METRICS,
    PSNR,
    make_run,
    paired_run,
    rate_distortion_run,
    write_all_kinds,
    write_run,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all_kinds(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, which keeps what its console says."""
    pytest.importorskip("selenium", reason="the browser test needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("the browser test needs Debian's packages chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    with warnings.catch_warnings():
        # Sockets that selenium leaves to the garbage collector are not ours.
        warnings.simplefilter("ignore", ResourceWarning)
        chrome = webdriver.Chrome(options=options, service=service)
        yield chrome
        chrome.quit()


def _open(browser: Any, page: Path, width: int, height: int, *, mobile: bool = False) -> None:
    screen = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(page.as_uri())


def _find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def _console_errors(browser: Any) -> list[Any]:
    return [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"]


def _slider_value(browser: Any) -> int:
    return int(_find(browser, "[role=slider]").get_attribute("aria-valuenow"))


def test_slider_moves_by_keyboard_and_pointer(browser: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    _open(browser, report, 1280, 900)
    handle = _find(browser, "[role=slider]")
    assert _slider_value(browser) == 50
    for keys, expected in (
        (Keys.ARROW_RIGHT, 51),
        (Keys.ARROW_LEFT * 3, 48),
        (Keys.PAGE_UP, 58),
        (Keys.HOME, 0),
        (Keys.ARROW_LEFT, 0),
        (Keys.END, 100),
    ):
        handle.send_keys(keys)
        assert _slider_value(browser) == expected
    stage = _find(browser, ".stage")
    width = stage.size["width"]
    pull = ActionChains(browser).move_to_element(stage).click_and_hold()
    pull.move_by_offset(-int(width / 4), 0).release().perform()
    assert abs(_slider_value(browser) - 25) <= 1
    clip = _find(browser, ".canvas img:last-child").value_of_css_property("clip-path")
    left = float(re.findall(r"([\d.]+)px", clip)[-1])
    assert abs(left - width / 4) < 3
    ActionChains(browser).move_to_element(stage).perform()
    assert abs(_slider_value(browser) - 25) <= 1, "it moves only while the button is held"
    assert _console_errors(browser) == []


def test_chooses_pictures_versions_and_sizes(browser: Any, report: Path) -> None:
    from selenium.webdriver.support.select import Select

    _open(browser, report, 1280, 900)
    picture, left, right, zoom = map(
        Select, browser.find_elements("css selector", ".viewer select")
    )
    labels = ["Original", "JPEG, quality 5", "JPEG, quality 50", "WebP, quality 20"]
    assert [option.text for option in left.options] == labels
    right.select_by_visible_text("WebP, quality 20")
    left.select_by_index(1)
    picture.select_by_visible_text("second")
    assert right.first_selected_option.text == "WebP, quality 20"
    images = browser.find_elements("css selector", ".canvas img")
    assert [image.get_attribute("alt") for image in images] == [
        "second, JPEG, quality 5",
        "second, WebP, quality 20",
    ]
    assert all(image.get_property("naturalWidth") == 200 for image in images)
    row = _find(browser, ".comparison tbody tr:nth-child(2)")
    assert re.sub(r"\s+", " ", row.text) == "PSNR ↑ 21.00 dB 24.00 dB (better)"
    zoom.select_by_index(1)
    # Two pixels of this screen are one CSS pixel.
    assert _find(browser, ".canvas").size == {"width": 100, "height": 150}
    zoom.select_by_index(3)
    assert _find(browser, ".canvas").size == {"width": 400, "height": 600}
    _find(browser, ".swap").click()
    assert left.first_selected_option.text == "WebP, quality 20"
    assert _console_errors(browser) == []


def test_pans_what_is_larger_than_its_frame(browser: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.select import Select

    _open(browser, report, 360, 740)
    Select(browser.find_elements("css selector", ".viewer select")[3]).select_by_index(3)
    scroll = "return document.querySelector('.frame').scrollLeft"
    before = browser.execute_script(scroll)
    stage = _find(browser, ".stage")
    pull = ActionChains(browser).move_to_element_with_offset(stage, 60, 0).click_and_hold()
    pull.move_by_offset(-40, 0).release().perform()
    assert abs(browser.execute_script(scroll) - before - 40) <= 1
    assert _slider_value(browser) == 50
    clip = _find(browser, ".canvas img:last-child").value_of_css_property("clip-path")
    border = before + 40 + _find(browser, ".frame").get_property("clientWidth") / 2
    assert abs(float(re.findall(r"([\d.]+)px", clip)[-1]) - border) <= 2
    pull = ActionChains(browser).click_and_hold(_find(browser, "[role=slider]"))
    pull.move_by_offset(60, 0).release().perform()
    assert _slider_value(browser) > 60
    assert abs(browser.execute_script(scroll) - before - 40) <= 1
    assert _console_errors(browser) == []


def test_redraws_charts(browser: Any, report: Path) -> None:
    from selenium.webdriver import Keys

    _open(browser, report, 1280, 900)
    plot, line = ".plot svg", ".plot svg .line"
    directions = browser.find_elements("css selector", ".chart .better")
    expected = ["↑ better: up", "↓ better: down", "↑ better: up", ""]
    assert [direction.text for direction in directions] == expected
    before = _find(browser, line).get_attribute("d")
    _find(browser, ".log-toggle").click()
    assert _find(browser, plot).get_attribute("data-x-scale") == "log"
    assert _find(browser, line).get_attribute("d") != before
    _find(browser, ".log-toggle").click()
    assert _find(browser, line).get_attribute("d") == before
    # A null value of the first codec has a mark outside of the scale.
    assert len(_find(browser, plot).find_elements("css selector", ".marker")) == 12
    assert len(_find(browser, plot).find_elements("css selector", ".off-scale")) == 1
    _find(browser, ".legend button").click()
    assert len(_find(browser, plot).find_elements("css selector", ".marker")) == 8
    _find(browser, ".plot").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    shown = re.sub(r"\s+", " ", _find(browser, ".plot .tooltip").text)
    assert shown.startswith("WebP bits per pixel 0.4000 PSNR 27.00 dB Setting quality 20")
    assert _console_errors(browser) == []


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_page_fits_the_screen(browser: Any, report: Path, width: int) -> None:
    _open(browser, report, width, 740, mobile=width < 500)
    for _ in range(2):
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        texts = "return [...document.querySelectorAll('.plot text')].map(text => {"
        texts += "const box = text.getBoundingClientRect();"
        texts += "return [box.left, box.right, parseFloat(getComputedStyle(text).fontSize)]})"
        for left, right, size in browser.execute_script(texts):
            assert left >= 0
            assert right <= width
            assert size >= 12
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert _console_errors(browser) == []


def test_shows_hostile_names_as_text(browser: Any, tmp_path: Path) -> None:
    run = rate_distortion_run(tmp_path)
    run["codecs"][1]["codec"] = run["pictures"][0]["versions"][0]["label"] = HOSTILE
    run["metrics"] = {key: {**metric, "title": HOSTILE} for key, metric in METRICS.items()}
    write_report([write_run(tmp_path, "run.json", run)], tmp_path / "out.html", title="Safe")
    _open(browser, tmp_path / "out.html", 360, 740, mobile=True)
    assert browser.title == "Safe"
    assert HOSTILE in _find(browser, ".chip.right").get_property("textContent")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360
    assert _console_errors(browser) == []


def test_draws_what_is_empty(browser: Any, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, "a.json", make_run("rate_distortion", metrics=METRICS, codecs=[])),
        write_run(tmp_path, "b.json", make_run("speed", sides=[])),
    ]
    write_report(runs, tmp_path / "out.html")
    _open(browser, tmp_path / "out.html", 360, 740, mobile=True)
    assert "No values to show" in _find(browser, ".plot").text
    assert _console_errors(browser) == []


def _paired_page(folder: Path) -> Path:
    """Two runs of two metrics over three pairs, with names that are long and not from left to right."""
    names = ["b" * 250, "a1", "שלום"]
    for kind in ("orig", "one", "two"):
        (folder / kind).mkdir()
        for name in names:
            Image.new("RGB", (48, 32), (90, 90, 90 + len(kind))).save(folder / kind / f"{name}.png")
    runs = []
    for kind in ("one", "two"):
        for metric, values in ((PSNR, (30.0, "Infinity", 20.0)), (LPIPS, (0.1, 0.2, 0.3))):
            run = paired_run(
                label=f"{kind} " + "long" * 50,
                metric=metric,
                mean=None,
                images=dict(zip(names, values, strict=True)),
                sets=["orig", kind],
            )
            runs.append(write_run(folder, f"{kind}-{metric['key']}.json", run))
    write_report(runs, folder / "out.html")
    return folder / "out.html"


def _names(browser: Any, selector: str) -> list[str]:
    return [
        found.get_property("title")[:2] for found in browser.find_elements("css selector", selector)
    ]


def test_sorts_tables_and_pictures(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.support.select import Select

    _open(browser, _paired_page(tmp_path), 1280, 900)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    table = "table.sortable"
    rows = f"{table} tbody th .name"
    heads = _find(browser, table).find_elements("css selector", "thead button")
    assert _names(browser, rows)[:3] == ["של", "bb", "a1"]
    heads[1].click()
    assert _names(browser, rows)[:3] == ["a1", "bb", "של"]
    heads[0].click()
    assert _names(browser, rows)[:3] == ["a1", "bb", "של"]
    heads[2].click()
    # Lower is better, so the worst is the largest.
    assert _names(browser, rows)[:3] == ["של", "a1", "bb"]
    sorted_by = browser.find_elements("css selector", f"{table} th[aria-sort]")[0]
    assert sorted_by.get_attribute("aria-sort") == "descending"
    cards = ".cards > li > .name"
    assert _names(browser, cards)[:3] == ["של", "bb", "a1"]
    order = Select(_find(browser, ".subject select"))
    assert [option.text for option in order.options] == [
        "PSNR, worst first",
        "PSNR, best first",
        "LPIPS (vgg), worst first",
        "LPIPS (vgg), best first",
        "Name",
    ]
    order.select_by_index(1)
    assert _names(browser, cards)[:3] == ["a1", "bb", "של"]
    order.select_by_index(3)
    assert _names(browser, cards)[:3] == ["bb", "a1", "של"]
    assert _console_errors(browser) == []


def test_a_card_opens_its_pair_in_the_viewer(browser: Any, tmp_path: Path) -> None:
    _open(browser, _paired_page(tmp_path), 1280, 900)
    button = browser.find_elements("css selector", ".cards button")[4]
    browser.execute_script("arguments[0].click()", button)
    images = browser.find_elements("css selector", ".canvas img")
    assert [image.get_attribute("alt")[:14] for image in images] == [f"{'b' * 14}"] * 2
    assert "two long" in images[1].get_attribute("alt")
    assert all(image.get_property("naturalWidth") == 48 for image in images)
    # Original and two results with a difference each.
    assert (
        len(
            browser.find_elements("css selector", ".viewer select")[1].find_elements(
                "css selector", "option"
            )
        )
        == 5
    )
    assert _console_errors(browser) == []


@pytest.mark.parametrize("width", [320, 420, 1400])
def test_long_names_fit_the_screen(browser: Any, tmp_path: Path, width: int) -> None:
    page = _paired_page(tmp_path)
    _open(browser, page, width, 900, mobile=width < 500)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # A long name has a line, and more of it is to be seen than a few letters.
    for found in browser.find_elements("css selector", ".name.long:not(.chip *)"):
        assert found.size["height"] < 40
        assert found.size["width"] >= 75
    shown = _find(browser, "table.sortable tbody th .name.long").size["width"]
    assert shown >= (500 if width == 1400 else 100)
    assert _console_errors(browser) == []


def test_infinite_values_of_a_codec_stay_in_the_chart(browser: Any, tmp_path: Path) -> None:
    run = rate_distortion_run(tmp_path)
    for point in run["codecs"][2]["points"]:
        point["metrics"]["psnr"] = "Infinity"
    write_report([write_run(tmp_path, "run.json", run)], tmp_path / "out.html")
    _open(browser, tmp_path / "out.html", 420, 900, mobile=True)
    legend = [
        found.text
        for found in browser.find_elements("css selector", ".chart:first-child .legend button")
    ]
    assert legend == ["JPEG", "WebP", "AVIF"]
    assert len(browser.find_elements("css selector", ".chart:first-child .off-scale")) == 5
    labels = [
        text.text for text in browser.find_elements("css selector", ".chart:first-child .axes text")
    ]
    assert "∞" in labels
    assert "none" in labels
    assert _console_errors(browser) == []
