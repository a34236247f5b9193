# SPDX-License-Identifier: Apache-2.0
"""The record of a decoding says what servers say, and its parts add up."""

import json
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.report import DecodingReport, DraftingChoice, ModelTime
from genaccel.skip_decoding.sampling import SamplingRule
from tests.skip_decoding.tiny_models import draft_of, tiny_llama


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


def report_of(target: Any, drafter: Any, prompts: torch.Tensor | None = None) -> DecodingReport:
    prompts = torch.tensor([[3, 4], [5, 6]]) if prompts is None else prompts
    rule = SamplingRule(guidance_scale=2.0)
    return decode(
        target,
        prompts,
        rule=rule,
        max_new_tokens=20,
        drafter=drafter,
        negative_prompts=prompts[:, :1],
    ).report


def test_the_record_adds_up(target: Any) -> None:
    report = report_of(target, ModelDrafter(draft_of(target)))
    record = json.loads(report.to_json())
    assert record == report.to_record()
    assert record["generated_tokens"] == 40
    forwards = record["target_forwards"]
    assert forwards["prefill"] == 1
    assert forwards["total"] == forwards["prefill"] + forwards["decode"] == report.target_forwards
    for clock in ("wall_seconds", "cpu_seconds"):
        parts = record[clock]
        assert parts["total"] == pytest.approx(
            sum(parts[k] for k in ("draft", "verify", "overhead"))
        )
        assert min(parts.values()) > 0
    assert sum(record["acceptance_histogram"]) == record["num_drafts"]
    assert record["mean_acceptance_length"] == pytest.approx(
        1 + record["num_accepted_tokens"] / record["num_drafts"]
    )
    assert record["draft_acceptance_rate"] == pytest.approx(
        record["num_accepted_tokens"] / record["num_draft_tokens"]
    )
    assert record["unverified_fraction"] == 0
    assert set(record["versions"]) == {"genaccel", "torch", "transformers"}
    assert "missing" not in record["versions"].values()
    assert record["choice"] is None


def test_a_decoding_without_guesses_has_a_record_too(target: Any) -> None:
    for report in (
        report_of(target, None),
        report_of(target, None, torch.empty(0, 2, dtype=torch.long)),
        DecodingReport(),
    ):
        record = json.loads(report.to_json(indent=2))
        assert record["mean_acceptance_length"] == 1
        assert record["draft_acceptance_rate"] == record["wall_seconds"]["draft"] == 0
        assert record["target_forwards"]["decode"] == max(0, report.target_forwards - 1)
        assert "accepted in a round  none" in str(report)


def test_forwards_are_timed_without_what_is_around_them(target: Any) -> None:
    drafter = JacobiDrafter(3)
    report = report_of(target, drafter)
    assert report.draft_seconds == report.draft_cpu_seconds == 0  # it has no model
    assert report.target_seconds < report.total_seconds
    model = ModelDrafter(draft_of(target))
    report_of(target, model)
    first = model.model_time.forwards
    report_of(target, model)
    assert 0 < model.model_time.forwards <= first + 2  # of the last decoding, not of all


def test_a_forward_that_fails_is_not_counted() -> None:
    taken = ModelTime()
    with pytest.raises(KeyError), taken.measured():
        raise KeyError
    assert taken.forwards == 0
    with taken.measured():
        sum(range(1000))
    assert taken.forwards == 1
    assert taken.seconds > 0


def test_people_read_a_table() -> None:
    report = DecodingReport(
        target_forwards=11,
        rounds=4,
        drafted_tokens=16,
        accepted_tokens=8,
        generated_tokens=40,
        acceptance_histogram=[1, 1, 0, 1, 1],
        draft_seconds=0.25,
        target_seconds=1.0,
        total_seconds=1.5,
    )
    report.choice = DraftingChoice(widths=(2, 1), expected_speedup=1.5, reason="it pays")
    text = str(report)
    assert "11, 1 of them of prompts" in text
    assert "50% of 16" in text
    assert "0: 25%, 1: 25%, 2: 0%, 3: 25%, 4: 25%" in text
    assert "1.500 (draft 0.250, verify 1.000, overhead 0.250)" in text
    assert "a tree of widths 2, 1 (it pays)" in text
    assert report.to_record()["choice"] == {
        "widths": [2, 1],
        "expected_speedup": 1.5,
        "reason": "it pays",
        "stopped_after": None,
        "stop_reason": None,
    }


@pytest.mark.parametrize(
    ("widths", "stop", "text"),
    [
        (None, None, "no guesses (why)"),
        ((1, 1, 1), None, "a chain of 3 (why)"),
        ((1,), "given up", "a chain of 1 (why); given up"),
    ],
)
def test_a_choice_is_a_phrase(widths: Any, stop: str | None, text: str) -> None:
    choice = DraftingChoice(widths=widths, expected_speedup=1.0, reason="why", stop_reason=stop)
    assert str(choice) == text
