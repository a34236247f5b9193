# SPDX-License-Identifier: Apache-2.0
"""The replay forces the acceptance that was recorded, and says what it is."""

import pytest
import torch

pytest.importorskip("transformers")

from bench._decoding.replay import CHAIN, SMALL, ReplayDrafter, recorded_acceptance, replay


def test_a_replay_has_the_acceptance_of_its_record() -> None:
    all_right = replay([CHAIN], SMALL)
    none_right = replay([0], SMALL)
    mixed = replay([0, 4, 2, 1], SMALL)
    # The first token is the prompt's; five come of each round, the last of which is cut.
    assert all_right.replayed_tokens_per_forward == pytest.approx(23 / 5)
    assert none_right.replayed_tokens_per_forward == 1
    assert 1.5 < mixed.replayed_tokens_per_forward < 4
    for figures in (all_right, none_right, mixed):
        assert figures.differing_tokens == 0
        assert 0 < figures.overhead < 1
        assert figures.efficiency == pytest.approx(
            figures.speedup * figures.row_cost / figures.replayed_tokens_per_forward
        )
    assert "RANDOM" in str(mixed)
    assert "REPLAYED" in str(mixed)


def test_the_record_is_that_of_photo_ar() -> None:
    record = recorded_acceptance(tokens=40)
    assert record == recorded_acceptance(tokens=40)
    assert min(record) >= 0
    assert max(record) <= CHAIN
    assert 1.5 < 1 + sum(record) / len(record) < 5


@pytest.mark.parametrize("record", [[], [5], [-1]])
def test_a_record_that_cannot_be_is_refused(record: list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 to 4"):
        ReplayDrafter(torch.zeros(1, 4, dtype=torch.long), record, 8)
