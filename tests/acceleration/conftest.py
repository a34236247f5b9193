# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch._dynamo.utils import counters


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Plans go to the test's own folder."""
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plans"


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()
