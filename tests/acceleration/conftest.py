# SPDX-License-Identifier: Apache-2.0
import functools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import flux, run_flux

import genaccel
from genaccel import SensitivityConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Plans go to the test's own folder."""
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plans"


@pytest.fixture(params=["output", "segment"])
def config(request):
    """Two ways to forecast."""
    return SensitivityConfig(speedup=2.0, granularity=request.param)


@pytest.fixture
def pipe():
    """A tiny Flux pipeline."""
    return flux()


@functools.cache
def made_without_acceleration():
    return run_flux(flux())


@pytest.fixture
def plain():
    """What ``pipe`` makes without acceleration."""
    return made_without_acceleration()


@pytest.fixture
def handle(pipe, plain, config):
    """The pipeline is enabled, and has measured a run."""
    made = genaccel.enable(pipe, config)
    run_flux(pipe)
    return made
