# SPDX-License-Identifier: Apache-2.0
"""Measurements are found again for what they hold for alone, and cost nothing where they cannot be kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from genaccel.skip_decoding.tuning import measurements
from genaccel.skip_decoding.tuning.measurements import content_digest, keep, machine, recall
from tests.skip_decoding.tiny_models import tiny_llama

KEY = {"target": "a", "list": [1, 2.5]}


def test_what_is_kept_is_found_in_this_process_and_the_next(cache: Path) -> None:
    assert recall("costs", KEY) is None
    keep("costs", KEY, {"seconds": 1})
    for _ in range(2):
        assert recall("costs", KEY) == {"seconds": 1}
        assert recall("costs", {**KEY, "target": "b"}) is None
        assert recall("budget", KEY) is None
        measurements.forget()
    assert len(list(cache.iterdir())) == 1  # no partial file stays


def test_what_is_not_for_the_disk_is_known_here_alone(cache: Path) -> None:
    keep("acceptance", KEY, {"trials": 1}, on_disk=False)
    assert recall("acceptance", KEY) == {"trials": 1}
    assert not cache.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"{}",
        b'{"version": 1, "key": {"target": "other"}, "measured": {}}',
        json.dumps({"version": 99, "key": KEY, "measured": {"seconds": 1}}).encode(),
        json.dumps({"version": 1, "key": KEY, "measured": [1]}).encode(),
    ],
)
def test_a_damaged_or_foreign_file_counts_as_none(cache: Path, content: bytes) -> None:
    keep("costs", KEY, {"seconds": 1})
    (file,) = cache.iterdir()
    file.write_bytes(content)
    measurements.forget()
    assert recall("costs", KEY) is None
    keep("costs", KEY, {"seconds": 2})
    measurements.forget()
    assert recall("costs", KEY) == {"seconds": 2}


def test_a_folder_that_cannot_be_written_costs_the_keeping_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("a file is in its place")
    keep("costs", KEY, {"seconds": 1})
    assert recall("costs", KEY) == {"seconds": 1}
    measurements.forget()
    assert recall("costs", KEY) is None

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("GENACCEL_CACHE")
    monkeypatch.setattr(Path, "home", no_home)
    keep("costs", KEY, {"seconds": 1})
    assert recall("costs", KEY) == {"seconds": 1}


def test_networks_are_told_apart_by_what_is_in_them() -> None:
    model = tiny_llama()
    digest = content_digest(model)
    assert digest == content_digest(tiny_llama())
    assert digest == content_digest(model)
    others: list[Any] = [tiny_llama(seed=1), tiny_llama(layers=1), tiny_llama().float()]
    assert len({digest, *map(content_digest, others)}) == 4
    with torch.no_grad():
        model.model.norm.weight.mul_(2)  # also where it was known before
    assert content_digest(model) != digest


def test_threads_and_the_processor_make_another_machine() -> None:
    here = machine(torch.device("cpu"))
    torch.set_num_threads(2)
    assert machine(torch.device("cpu")) == {**here, "threads": 2}
    assert here["flags"]
