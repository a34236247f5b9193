# SPDX-License-Identifier: Apache-2.0
"""What accelerates what: by the type of a config, or by a flag."""

import subprocess
import sys

import pytest
from torch import nn

import genaccel
from genaccel import SensitivityConfig
from genaccel.acceleration import METHODS, config_of_flag, handles_of, method_of


@pytest.mark.parametrize(
    ("flag", "config"),
    [
        (None, None),
        (False, None),
        ("soda", SensitivityConfig(speedup=2.0)),
        ("soda:3", SensitivityConfig(speedup=3.0)),
        ("soda:2.5", SensitivityConfig(speedup=2.5)),
        ("soda:max", SensitivityConfig(speedup="max")),
        (SensitivityConfig(min_psnr=30.0), SensitivityConfig(min_psnr=30.0)),
    ],
)
def test_flags_mean_configs(flag, config):
    assert config_of_flag(flag) == config


@pytest.mark.parametrize("flag", ["", "soda:", "Soda", "soda:x", "soda:1", "soda:-3", "soda:1e3"])
def test_unknown_flags_are_explained(flag):
    with pytest.raises(ValueError, match=r'"soda:<speedup>".*or a SensitivityConfig.*got'):
        config_of_flag(flag)


@pytest.mark.parametrize("flag", [True, 2.0, 3, {"speedup": 2.0}, ["soda"]])
def test_flags_of_other_types_are_refused(flag):
    with pytest.raises(TypeError, match="SensitivityConfig"):
        config_of_flag(flag)


def test_a_method_is_found_by_the_type_of_its_config():
    assert method_of(SensitivityConfig(speedup=2.0)).name == "soda"
    for config in ({}, None, nn.Linear(1, 1)):
        with pytest.raises(
            TypeError, match="config must be a SensitivityConfig or SkipDecodingConfig, got"
        ):
            method_of(config)
    assert len({method.name for method in METHODS}) == len(METHODS)


def test_nothing_of_a_method_is_imported_before_it_is_asked_for():
    code = (
        "import sys, genaccel; print([m for m in sys.modules if 'genaccel.' in m or m == 'torch'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "genaccel.sensitivity.enable" not in found.stdout
    assert "genaccel.hooks.engine" not in found.stdout


def test_what_is_not_enabled_has_no_handles():
    model = nn.Linear(1, 1)
    assert not genaccel.is_enabled(model)
    assert handles_of(model) == {}
    genaccel.disable(model)
    assert set(vars(model)) == set(vars(nn.Linear(1, 1)))
