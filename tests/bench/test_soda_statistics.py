# SPDX-License-Identifier: Apache-2.0
"""Paired intervals of ``bench/soda.py``, and the bars that ask for their ends."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench._sensitivity.quality import Quality
from bench._sensitivity.statistics import Interval, against, nearest, paired_interval
from bench.harness import Bench


def test_the_interval_is_students() -> None:
    # The extra hours of sleep of Student's ten patients: 1.58, and 0.70 to 2.46 with 95 % confidence.
    extra = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]

    found = paired_interval(extra)

    assert found.mean == pytest.approx(1.58)
    assert found.low == pytest.approx(0.7001, abs=1e-4)
    assert found.high == pytest.approx(2.4599, abs=1e-4)
    wider = paired_interval(extra, confidence=0.99)
    assert wider.low < found.low < found.high < wider.high
    with pytest.raises(ValueError, match="at least 2"):
        paired_interval([1.0])


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(0.3, 2.0, (2000, 32))

    hits = [i.low <= 0.3 <= i.high for i in map(paired_interval, draws.tolist())]

    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_pairs_tell_what_means_do_not() -> None:
    # Samples differ by 20 dB; ours is better by about half a decibel on each.
    levels = np.linspace(30, 50, 16)
    shift = 0.5 + 0.1 * np.cos(np.arange(16))
    ours = Quality(tuple(levels + shift), tuple(0.001 * 2 ** np.cos(levels)), None)
    other = Quality(tuple(levels), tuple(0.0013 * 2 ** np.cos(levels)), None)

    found = against(ours, other)

    assert found.psnr.mean == pytest.approx(shift.mean())
    assert 0.4 < found.psnr.low < found.psnr.high < 0.6
    assert found.st_lpips is not None
    assert found.st_lpips.mean == pytest.approx(1.3)
    assert found.st_lpips.low == pytest.approx(1.3)
    turned = against(other, ours)
    assert turned.psnr.high < 0
    assert turned.st_lpips is not None
    assert turned.st_lpips.mean == pytest.approx(1 / 1.3)
    assert against(ours, Quality(other.psnrs, None, None)).st_lpips is None


def test_equal_pictures_have_a_distance_ratio() -> None:
    quality = Quality((99.0, 99.0), (0.0, 0.0), None)

    found = against(quality, quality)

    assert found.st_lpips == Interval(1.0, 1.0, 1.0)
    assert found.psnr == Interval(0.0, 0.0, 0.0)


def test_the_nearest_of_the_others_has_the_lowest_end_of_all() -> None:
    others = {
        "near": Interval(0.5, 0.3, 0.7),
        "spread": Interval(1.0, -0.2, 2.2),
        "far": Interval(9.0, 8.0, 10.0),
    }

    assert nearest(others) == ("near", Interval(0.5, -0.2, 0.7))
    with pytest.raises(ValueError, match="at least one"):
        nearest({})


def test_a_bar_with_an_interval_needs_its_worse_end(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(name="b", quick=False, json_path=None)
    bench.bar("ahead", 0.4, 0.0, interval=(0.1, 0.7))
    bench.bar("within the spread", 0.4, 0.0, interval=(-0.1, 0.9))
    bench.bar("equal", 0.0, 0.0, interval=(0.0, 0.0))
    bench.bar("less", 0.4, 1.0, higher_is_better=False, interval=(0.1, 1.1))
    bench.bar("mean alone", 0.4, 0.0)

    bench.finish()

    assert [bar["ok"] for bar in bench.bars] == [True, False, False, False, True]
    assert "bar ahead value=0.400 target=0.0 ok\n" in capsys.readouterr().out


def test_a_quick_run_takes_bars_from_a_record_that_names_its_commit(tmp_path: Path) -> None:
    path = tmp_path / "soda.json"
    full = Bench(name="b", quick=False, json_path=path)
    full.bar("psnr", 1.2, 0.0, interval=(0.2, 2.2))
    full.finish()
    record = json.loads(path.read_text())
    commit = record["environment"]["commit"]
    quick = Bench(name="b", quick=True, json_path=None)

    sentence = quick.take_recorded_bars({"psnr": 0.0, "new": 1.5}, path)

    assert commit in sentence
    psnr, new = quick.bars
    assert psnr == {**full.bars[0], "recorded": commit}
    assert (new["value"], new["target"], new["ok"]) == (None, 1.5, False)

    # Whoever does not say what was measured has measured nothing.
    del record["environment"]["commit"]
    path.write_text(json.dumps(record))
    for place in (path, tmp_path / "missing.json"):
        without = Bench(name="b", quick=True, json_path=None)
        assert "no full run" in without.take_recorded_bars({"psnr": 0.0}, place)
        assert (without.bars[0]["value"], without.bars[0]["ok"]) == (None, False)


def test_intervals_of_one_value_are_points() -> None:
    assert paired_interval([0.25] * 4) == Interval(0.25, 0.25, 0.25)
    assert not math.isnan(paired_interval([0.0, 0.0]).low)
