# SPDX-License-Identifier: Apache-2.0
"""What rounds cost is measured in rounds, once, and a file that cannot be is measured anew."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.tuning import cost_curve, measurements
from genaccel.skip_decoding.tuning.cost_curve import (
    ROWS,
    CostCurve,
    RoundCosts,
    measure_round_costs,
    round_costs,
)
from tests.skip_decoding.tiny_models import draft_of, tiny_llama

RULE = SamplingRule(guidance_scale=3.0)


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


def test_between_and_beyond_what_was_measured_lie_straight_lines() -> None:
    curve = CostCurve(rows=(1, 2, 4), seconds=(1.0, 1.5, 2.0))
    assert [curve.at(rows) for rows in (1, 2, 3, 4, 8)] == [1.0, 1.5, 1.75, 2.0, 3.0]
    # A measurement that fell is noise, and more rows are never free beyond it.
    falling = CostCurve(rows=(1, 2, 4), seconds=(1.0, 2.0, 1.5))
    assert [falling.at(rows) for rows in (3, 4, 100)] == [2.0, 2.0, 2.0]
    assert CostCurve(rows=(1,), seconds=(0.5,)).at(4) == 2.0


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ((2, 4), (1.0, 2.0)),
        ((1, 4, 2), (1.0,) * 3),
        ((1, 2), (1.0,)),
        ((1, 2), (1.0, float("nan"))),
    ],
)
def test_a_curve_that_cannot_be_is_refused(rows: Any, seconds: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        CostCurve(rows=rows, seconds=seconds)


def test_a_tree_costs_its_rows_and_its_drafters_steps() -> None:
    curve = CostCurve(rows=(1, 2, 8), seconds=(1.0, 1.5, 2.1))
    costs = RoundCosts(verify=curve, draft_first=0.2, draft_step=0.1)
    assert costs.drafting((1,)) == pytest.approx(1.5 + 0.2)
    assert costs.drafting((2,)) == pytest.approx(1.6 + 0.2)
    assert costs.drafting((1, 1)) == pytest.approx(1.6 + 0.2 + 0.1)
    # The second step reads two rows at once.
    assert costs.drafting((2, 2)) == pytest.approx(curve.at(7) + 0.2 + 0.1 * 1.5)
    assert RoundCosts.from_dict(costs.to_dict()) == costs


@pytest.mark.parametrize("kind", ["jacobi", "model", "none"])
def test_every_number_of_rows_is_measured(target: Any, kind: str) -> None:
    drafter = {"jacobi": JacobiDrafter(3), "model": ModelDrafter(draft_of(target)), "none": None}
    before = torch.get_rng_state()
    costs = measure_round_costs(target, drafter[kind], sequences=2, rule=RULE, seconds=0.2)
    assert costs.verify.rows == ROWS
    assert (costs.draft_first > 0) == (kind != "none")
    assert torch.equal(torch.get_rng_state(), before)  # nobody's own draws change


def test_a_slow_model_is_asked_for_few_rows(target: Any) -> None:
    costs = measure_round_costs(target, sequences=1, rule=RULE, seconds=0.0)
    assert costs.verify.rows == ROWS[:4]


def test_options_that_end_or_skip_do_not_end_the_measurement(target: Any) -> None:
    options = DecodingOptions(end_tokens=tuple(range(40)))
    costs = round_costs(target, sequences=1, rule=SamplingRule(), options=options, seconds=0.05)
    assert len(costs.verify.rows) >= 4


def test_costs_are_measured_once(target: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    costs = RoundCosts(verify=CostCurve(rows=(1, 2), seconds=(1.0, 1.5)))

    def measured(*args: Any, sequences: int, **values: Any) -> RoundCosts:
        calls.append(sequences)
        return costs

    monkeypatch.setattr(cost_curve, "measure_round_costs", measured)

    def asked(sequences: int = 1, rule: SamplingRule = RULE) -> RoundCosts:
        return round_costs(target, sequences=sequences, rule=rule)

    assert asked() == asked() == costs
    measurements.forget()
    assert asked() == costs
    assert calls == [1]
    asked(4)
    asked(rule=SamplingRule())
    torch.set_num_threads(2)
    asked()
    assert calls == [1, 4, 1, 1]
    torch.set_num_threads(1)
    for file in cache.iterdir():
        content = json.loads(file.read_text())
        content["measured"]["seconds"] = [1.0, -1.0]
        file.write_text(json.dumps(content))
    measurements.forget()
    asked()
    assert len(calls) == 5
