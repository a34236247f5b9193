# SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path

import pytest

from genaccel.sensitivity.config import FORECASTERS, PlannerOptions, SensitivityConfig


def test_one_target_is_wanted():
    with pytest.raises(ValueError, match=r"give one target: .*got none"):
        SensitivityConfig()
    with pytest.raises(ValueError, match="got speedup and min_psnr"):
        SensitivityConfig(speedup=2.0, min_psnr=30.0)
    assert SensitivityConfig(plan="folder").speedup is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speedup": 1.0}, "speedup must be above 1 and finite, got 1.0"),
        ({"speedup": math.inf}, "speedup must be above 1 and finite, got inf"),
        ({"speedup": float("nan")}, "speedup must be above 1"),
        ({"max_lpips": 0.0}, "max_lpips must be above 0"),
        ({"speedup": "most"}, "speedup must be a number or \"max\", got 'most'"),
        ({"speedup": 2.0, "max_interval": 0}, "max_interval must be at least 1"),
        ({"speedup": 2.0, "first_run": "skip"}, "first_run must be one of measure, plan"),
        (
            {"speedup": 2.0, "granularity": "token"},
            "granularity must be one of auto, output, segment, ",
        ),
        ({"speedup": 2.0, "cache_megabytes": 0.0}, "cache_megabytes must be above 0 or None"),
        ({"speedup": 2.0, "planner": {"metric": "l2"}}, "planner must be PlannerOptions, got dict"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        SensitivityConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"forecasters": ()}, "forecasters must be some of"),
        ({"forecasters": ("magic",)}, "forecasters must be some of"),
        ({"metric": "l3"}, "metric must be one of cosine, l1, l2, got 'l3'"),
        ({"edge_cost": "x"}, "edge_cost must be one of"),
        ({"objective": "x"}, "objective must be one of"),
        ({"token_score": "x"}, "token_score must be one of"),
        ({"warmup_steps": 0}, "warmup_steps must be at least 1"),
        ({"max_blocks": 0}, "max_blocks must be at least 1 or None"),
    ],
)
def test_options_of_the_planner_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        PlannerOptions(**values)
    with pytest.raises(ValueError, match=message):
        SensitivityConfig(speedup=2.0).changed(**values)


def test_as_fast_as_can_be_may_have_a_quality_as_its_floor():
    for floor in ({}, {"min_psnr": 30.0}, {"max_lpips": 0.05}):
        config = SensitivityConfig(speedup="max", **floor)
        assert config.target.startswith("as fast as can be")
    with pytest.raises(ValueError, match="give one target"):
        SensitivityConfig(speedup="max", min_psnr=30.0, max_lpips=0.05)


@pytest.mark.parametrize(
    ("values", "target"),
    [
        ({"speedup": 2.0}, "2x fewer FLOPs"),
        ({"min_psnr": 30.0}, "as fast as a PSNR of 30 dB allows"),
        ({"max_lpips": 0.05}, "as fast as a ST-LPIPS of 0.05 allows"),
        ({"speedup": "max", "min_psnr": 30.0}, "as fast as can be with a PSNR of 30 dB"),
        ({"plan": "folder"}, "what the given plan does"),
    ],
)
def test_the_target_in_words(values, target):
    assert SensitivityConfig(**values).target == target


def test_a_changed_copy_has_values_of_its_own_and_of_the_planner():
    config = SensitivityConfig(speedup=2.0, max_interval=5)
    changed = config.changed(speedup=3.0, metric="cosine", warmup_steps=2)
    assert (changed.speedup, changed.max_interval) == (3.0, 5)
    assert (changed.planner.metric, changed.planner.warmup_steps) == ("cosine", 2)
    assert changed.changed(metric="l2").planner == PlannerOptions(warmup_steps=2)
    assert config.planner == PlannerOptions()
    with pytest.raises(TypeError, match="color"):
        config.changed(color="red")


def test_l1_leaves_the_affine_corrector_out_because_moments_do_not_tell_its_error():
    assert PlannerOptions(metric="l1").forecasters == FORECASTERS[:-1]


def test_l1_with_the_affine_corrector_alone_is_refused():
    with pytest.raises(ValueError, match="l1"):
        PlannerOptions(metric="l1", forecasters=("affine",))


def test_json_and_back(tmp_path):
    planner = PlannerOptions(forecasters=("reuse",), max_blocks=3)
    config = SensitivityConfig(speedup=2.0, plan=tmp_path, first_run="plan", planner=planner)
    values = json.loads(json.dumps(config.to_dict()))
    again = SensitivityConfig.from_dict(values)
    assert again.to_dict() == config.to_dict()
    assert again.planner == planner


def test_an_unknown_key_is_named():
    with pytest.raises(ValueError, match=r"unknown keys \['speed'\]; known are .*'speedup'"):
        SensitivityConfig.from_dict({"speed": 2.0})
    with pytest.raises(ValueError, match=r"unknown keys \['colour'\]; known are .*'metric'"):
        SensitivityConfig.from_dict({"speedup": 2.0, "planner": {"colour": "red"}})


def test_a_key_that_belongs_to_the_planner_is_said_to():
    with pytest.raises(ValueError, match='metric belongs into "planner"'):
        SensitivityConfig.from_dict({"speedup": 2.0, "metric": "l2"})


def test_where_plans_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path))
    assert SensitivityConfig(speedup=2.0).cache_folder == tmp_path / "plans"
    assert SensitivityConfig(speedup=2.0, cache_dir="here").cache_folder == Path("here")
    monkeypatch.delenv("GENACCEL_CACHE")
    assert SensitivityConfig(speedup=2.0).cache_folder == Path.home() / ".cache/genaccel/plans"
