# SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path

import pytest

from genaccel.sensitivity.config import FORECASTERS, SensitivityConfig


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
        ({"speedup": 2.0, "forecasters": ()}, "forecasters must be some of"),
        ({"speedup": 2.0, "forecasters": ("magic",)}, "forecasters must be some of"),
        ({"speedup": 2.0, "metric": "l3"}, "metric must be one of cosine, l1, l2, got 'l3'"),
        ({"speedup": 2.0, "edge_cost": "x"}, "edge_cost must be one of"),
        ({"speedup": 2.0, "objective": "x"}, "objective must be one of"),
        ({"speedup": 2.0, "max_interval": 0}, "max_interval must be at least 1"),
        ({"speedup": 2.0, "warmup_steps": 0}, "warmup_steps must be at least 1"),
        ({"speedup": 2.0, "max_blocks": 0}, "max_blocks must be at least 1 or None"),
        ({"speedup": 2.0, "cache_megabytes": 0.0}, "cache_megabytes must be above 0 or None"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        SensitivityConfig(**values)


def test_l1_leaves_the_affine_corrector_out_because_moments_do_not_tell_its_error():
    assert SensitivityConfig(speedup=2.0, metric="l1").forecasters == FORECASTERS[:-1]


def test_l1_with_the_affine_corrector_alone_is_refused():
    with pytest.raises(ValueError, match="l1"):
        SensitivityConfig(speedup=2.0, metric="l1", forecasters=("affine",))


def test_json_and_back(tmp_path):
    config = SensitivityConfig(speedup=2.0, plan=tmp_path, forecasters=("reuse",), max_blocks=3)
    values = json.loads(json.dumps(config.to_dict()))
    again = SensitivityConfig.from_dict(values)
    assert again.to_dict() == config.to_dict()
    assert again.forecasters == ("reuse",)


def test_an_unknown_key_is_named():
    with pytest.raises(ValueError, match=r"unknown keys \['speed'\]; known are .*'speedup'"):
        SensitivityConfig.from_dict({"speed": 2.0})


def test_where_plans_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path))
    assert SensitivityConfig(speedup=2.0).cache_folder == tmp_path / "plans"
    assert SensitivityConfig(speedup=2.0, cache_dir="here").cache_folder == Path("here")
    monkeypatch.delenv("GENACCEL_CACHE")
    assert SensitivityConfig(speedup=2.0).cache_folder == Path.home() / ".cache/genaccel/plans"
