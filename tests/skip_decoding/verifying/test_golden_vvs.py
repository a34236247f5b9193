# SPDX-License-Identifier: Apache-2.0
"""Acceptance and skipping equal what the authors' own code of VVS and LANTERN does."""

import pytest
import torch

from tests.skip_decoding.golden_vvs import FIELDS, Compared

pytestmark = pytest.mark.golden

CASES = [(field, number) for field, (_, count) in FIELDS.items() for number in range(count)]


@pytest.mark.parametrize(("field", "number"), CASES)
def test_ours_is_theirs(field: str, number: int) -> None:
    compared = list(FIELDS[field][0](number))
    assert compared
    assert [one for one in compared if not one.agrees] == []


def test_every_field_has_cases() -> None:
    assert {field: count for field, (_, count) in FIELDS.items()} == {
        "accept": 42,
        "accept_with_draft_probability": 24,
        "greedy": 12,
        "similarity": 27,
        "decide": 88,
        "skip_commit": 39,
        "neighbours": 1,
        "guidance and filters": 1,
        "features": 4,
    }


def test_what_differs_does_not_agree() -> None:
    ones = torch.ones(3)
    assert Compared("tensor", ones + 5e-7, ones, 1e-6).agrees
    assert not Compared("tensor", ones + 2e-6, ones, 1e-6).agrees
    assert not Compared("tensor", ones * torch.nan, ones, 1e-6).agrees
    assert not Compared("shape", ones[:2], ones).agrees
    assert not Compared("mask", ones > 0, ones > 1).agrees
    assert Compared("number", 0.1 + 1e-7, 0.1, 1e-6).agrees
    assert not Compared("number", 0.1 + 1e-5, 0.1, 1e-6).agrees
    assert not Compared("count", 2, 3).agrees
