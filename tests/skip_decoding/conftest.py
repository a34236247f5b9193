# SPDX-License-Identifier: Apache-2.0
"""No test of decoding reads or writes the user's own measurements."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from genaccel.skip_decoding.tuning import measurements


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, of which this process knows nothing; its folder."""
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path / "cache"))
    measurements.forget()
    yield tmp_path / "cache" / "decoding"
    measurements.forget()
