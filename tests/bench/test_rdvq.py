# SPDX-License-Identifier: Apache-2.0
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench._codec.rdvq_codecs import (
    HALF,
    REFINED,
    WITH_RDO,
    HalfSize,
    anchor_points,
    classical_codec,
    family,
    models_of,
    our_points,
)
from bench._codec.rdvq_curves import (
    anchor_front,
    comparisons,
    our_front,
    pareto_front,
    plot,
    quality_at,
    rate_at,
)
from genaccel import zoo
from genaccel.eval.bjontegaard_delta import Curve
from genaccel.eval.metrics import Metric

QUALITY = Metric(key="quality", title="Quality", higher_is_better=True)
DISTANCE = Metric(key="distance", title="Distance", higher_is_better=False)


def points(*pairs, key="quality"):
    return [{"bits_per_pixel": rate, "metrics": {key: value}} for rate, value in pairs]


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (32, 47), (1, 3)])
def test_half_size_gives_the_size_back_from_bytes_alone(size):
    rows, columns = np.mgrid[: size[0], : size[1]]
    image = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    codec = HalfSize(codec=classical_codec("JPEG", 95))
    data = codec.encode(image)
    inner = codec.codec.decode(data[1:])
    assert inner.shape == (-(-size[0] // 2), -(-size[1] // 2), 3)
    decoded = codec.decode(data)
    assert decoded.shape == image.shape
    if min(size) > 8:
        assert np.abs(decoded.astype(int) - image).mean() < 4


def test_points_are_named_and_half_size_says_so():
    found = anchor_points(quick=True)
    titles = {point.codec for point in found}
    assert {"JPEG", "WebP", "AVIF", "AVIF" + HALF} <= titles
    assert len({(point.codec, point.setting) for point in found}) == len(found)
    for title in ("JPEG", "AVIF"):
        # Enough for a BD-rate even in a quick run.
        assert sum(point.codec.startswith(title) for point in found) >= 4


def test_every_codec_of_the_zoo_and_each_folder_is_a_point(tmp_path):
    folder = tmp_path / "mine-0.05"
    shutil.copytree(zoo.path("photo-codec-high"), folder)
    found = our_points([str(folder), f"other={folder}"])
    models = [*zoo.names("codec"), str(folder), str(folder)]
    assert models_of(found) == models
    titles = dict.fromkeys(point.codec for point in found if "," not in point.codec)
    assert list(titles) == ["genaccel", "mine", "other"]
    assert len({(point.codec, point.setting) for point in found}) == len(found)
    assert [family(name) for name in ("a-0.1", "a-0.05bpp", "a-small")] == ["a", "a", "a-small"]
    with pytest.raises(ValueError, match="no-such-folder"):
        our_points(["no-such-folder"])


def test_the_front_takes_the_better_of_full_and_half_size():
    codecs = {
        "AVIF": points((0.08, 10), (0.2, 30), (0.3, 40)),
        "AVIF" + HALF: points((0.04, 5), (0.07, 15), (0.1, 25), (0.25, 26)),
    }
    front = anchor_front(codecs, "AVIF", QUALITY)
    assert list(zip(front.rates, front.qualities, strict=True)) == [
        (0.04, 5),
        (0.07, 15),
        (0.1, 25),
        (0.2, 30),
        (0.3, 40),
    ]
    lower = anchor_front(
        {"AVIF": points((0.1, 2), (0.1, 1), (0.2, 0.5), key="distance")}, "AVIF", DISTANCE
    )
    assert lower.qualities == [1, 0.5]


@pytest.mark.parametrize("metric", [QUALITY, DISTANCE])
def test_no_point_of_a_front_is_beaten_by_any_other(metric):
    sign = 1 if metric.higher_is_better else -1
    random = np.random.default_rng(0)
    pairs = [(r, sign * q) for r, q in random.integers(1, 12, (40, 2))]  # with equal ones
    front = pareto_front(points(*pairs, key=metric.key), metric)
    kept = list(zip(front.rates, front.qualities, strict=True))
    assert kept == sorted(set(kept))
    for rate, quality in pairs:
        better = [k for k in kept if k[0] <= rate and sign * k[1] >= sign * quality]
        assert better, "a point neither on the front nor beaten by it"
        assert ((rate, quality) in kept) == (better == [(rate, quality)])
    assert pareto_front([], metric).rates == []


def test_a_front_of_ours_is_of_all_settings_and_has_a_bd_rate():
    codecs = {
        "AVIF": points((0.1, 20), (0.2, 30), (0.4, 40), (0.8, 50)),
        "genaccel": points((0.1, 30), (0.21, 35), (0.4, 50)),
        # One is beaten by a plain point, which alone would leave the codec without a BD-rate.
        "genaccel" + WITH_RDO: points((0.05, 20), (0.2, 40), (0.3, 33)),
    }
    front = our_front(codecs, "genaccel", QUALITY)
    assert list(zip(front.rates, front.qualities, strict=True)) == [
        (0.05, 20),
        (0.1, 30),
        (0.2, 40),
        (0.4, 50),
    ]
    whole, *alone = comparisons(codecs, ["genaccel", "genaccel" + WITH_RDO], [QUALITY])
    assert (whole["codec"], whole["bits_per_pixel"]) == ("genaccel", "0.050 to 0.400")
    assert whole["bd_rate"] == pytest.approx(-0.5)
    assert "100% of the anchor" in whole["note"]
    # Each model without RDO keeps its ratio, and the points with RDO have no rows of their own.
    assert [row["bits_per_pixel"] for row in alone] == ["0.100", "0.210", "0.400"]
    assert alone[0]["rate_ratio_at_equal_quality"] == pytest.approx(0.5)


def test_a_front_that_overlaps_little_or_is_short_says_why_it_has_no_bd_rate():
    codecs = {
        "AVIF": points((0.1, 20), (0.2, 30), (0.4, 40), (0.8, 80)),
        "outside": points((0.01, -90), (0.02, 10), (0.06, 22), (0.07, 25), (0.08, 28)),
        "falls": points((0.1, 30), (0.2, 31), (0.3, 20), (0.4, 19)),
    }
    outside, falls = comparisons(codecs, ["outside", "falls"], [QUALITY])
    assert outside["bd_rate"] is None
    assert "less than 50%" in outside["note"]
    assert falls["bd_rate"] is None
    assert "at least 4 points, got 2" in falls["note"]


def test_interpolation_is_in_the_logarithm_of_the_rate():
    curve = Curve(rates=[0.1, 0.4], qualities=[0.5, 0.3])
    assert quality_at(curve, 0.2) == pytest.approx(0.4)
    assert rate_at(curve, 0.4) == pytest.approx(0.2)
    assert quality_at(curve, 0.5) is None
    assert rate_at(curve, 0.6) is None
    assert quality_at(Curve(rates=[], qualities=[]), 0.1) is None


def test_one_point_has_a_ratio_and_four_have_a_bd_rate():
    anchor = points((0.1, 20), (0.2, 30), (0.4, 40), (0.8, 50))
    codecs = {
        "AVIF": anchor,
        "one": points((0.1, 30)),
        "far": points((0.1, 60)),
        "four": points((0.05, 20), (0.1, 30), (0.2, 40), (0.4, 50)),
    }
    one, far, four = comparisons(codecs, ["one", "far", "four"], [QUALITY])
    assert one["rate_ratio_at_equal_quality"] == pytest.approx(0.5)
    assert one["bd_rate"] is None
    assert far["rate_ratio_at_equal_quality"] is None
    assert "outside" in far["note"]
    assert four["bd_rate"] == pytest.approx(-0.5)
    assert four["rate_ratio_at_equal_quality"] is None
    assert four["bits_per_pixel"] == "0.050 to 0.400"


def test_the_plot_leaves_out_what_is_not_asked_for(tmp_path):
    codecs = {
        "AVIF": points((0.1, 30), (0.2, 33)),
        "AVIF" + HALF: points((0.05, 28), (0.1, 29)),
        "genaccel": points((0.04, 20), (0.1, 25)),
        "genaccel, static tables": points((0.06, 20), (0.16, 25)),
    }
    plot(codecs, ["genaccel"], [QUALITY], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_refined_points_are_of_their_own_and_make_a_front_with_the_others():
    found = our_points([], refine=3)
    settings = {point.setting: point.codec for point in found}
    assert settings["model photo-codec-high, 3 steps, rdo 0.035"] == "genaccel" + REFINED
    assert not any(point.codec.endswith(REFINED) for point in our_points([]))
    assert models_of(found) == zoo.names("codec")
    codecs = {
        "AVIF": points((0.1, 20), (0.2, 30), (0.4, 40), (0.8, 50)),
        "genaccel": points((0.1, 20), (0.2, 30), (0.4, 40), (0.8, 50)),
        "genaccel" + REFINED: points((0.05, 20), (0.1, 30), (0.2, 40), (0.4, 50)),
    }
    rows = comparisons(codecs, ["genaccel", "genaccel" + REFINED], [QUALITY])
    assert [row["codec"] for row in rows] == ["genaccel", "genaccel" + REFINED]
    assert rows[0]["bd_rate"] == pytest.approx(0)
    assert rows[1]["bd_rate"] == pytest.approx(-0.5)
    front = our_front(codecs, "genaccel" + REFINED, QUALITY)
    assert front.rates == [0.05, 0.1, 0.2, 0.4]


def test_half_size_is_on_the_fronts_of_ours_as_on_those_of_anchors():
    found = our_points([], refine=3)
    half = {p.setting: p.codec for p in found if HALF in p.setting}
    assert half["model photo-codec-medium, half size"] == "genaccel" + HALF
    assert half["model photo-codec-low, half size, rdo 0.04"] == "genaccel" + HALF
    assert half["model photo-codec-high, half size, 3 steps, rdo 0.005"] == (
        "genaccel" + REFINED + HALF
    )
    codecs = {
        "genaccel": points((0.1, 20), (0.2, 30)),
        "genaccel" + HALF: points((0.03, 10), (0.15, 15)),
        "genaccel" + REFINED: points((0.1, 25)),
        "genaccel" + REFINED + HALF: points((0.04, 18)),
    }
    assert our_front(codecs, "genaccel", QUALITY).rates == [0.03, 0.1, 0.2]
    assert our_front(codecs, "genaccel" + REFINED, QUALITY).rates == [0.03, 0.04, 0.1, 0.2]
