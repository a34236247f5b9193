# SPDX-License-Identifier: Apache-2.0
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from genaccel.sensitivity.plans.plan import PLAN_NAME, PLAN_TENSORS_NAME, Plan

MakePlan = Callable[..., Plan]
ARRAYS = (
    "compute_mask",
    "forecaster_index",
    "token_counts",
    "affine_slope",
    "affine_intercept",
)


def _same(a: Plan, b: Plan) -> None:
    for name in ("fingerprint", "forecasters", "segment_of_layer", "expected_error"):
        assert getattr(a, name) == getattr(b, name)
    assert a.flop_fraction == b.flop_fraction
    for name in ARRAYS:
        mine, other = getattr(a, name), getattr(b, name)
        if mine is None:
            assert other is None
            continue
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)


def _bare(make_plan: MakePlan, **changes: Any) -> Plan:
    """A plan of nothing but reuse."""
    mask = np.arange(12)[:, None] % 3 == 0
    parts = {
        "compute_mask": mask,
        "forecasters": ("reuse",),
        "forecaster_index": np.where(mask, -1, 0).astype(np.int8),
        "token_counts": None,
        "segment_of_layer": (),
        "affine_slope": None,
        "affine_intercept": None,
        "expected_error": None,
    }
    return make_plan(**{**parts, **changes})


def test_a_plan_comes_back_as_it_was(make_plan: MakePlan, tmp_path: Path) -> None:
    for number, plan in enumerate((make_plan(), _bare(make_plan))):
        folder = tmp_path / str(number) / "model"
        plan.save_pretrained(folder)
        _same(plan, Plan.from_pretrained(folder))
        assert sorted(p.name for p in folder.iterdir()) == [PLAN_NAME, PLAN_TENSORS_NAME]


def test_a_plan_of_version_1_is_read(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    plan.save_pretrained(tmp_path)
    path = tmp_path / PLAN_NAME
    values = json.loads(path.read_text())
    known = {"segments", "start_step", "schedule_digest", "weights", "weights_dtype", "control"}
    fingerprint = {k: v for k, v in values["fingerprint"].items() if k not in known}
    fingerprint["lora"] = fingerprint.pop("adapters")
    path.write_text(json.dumps({**values, "version": 1, "fingerprint": fingerprint}))
    read = Plan.from_pretrained(tmp_path)
    assert read.fingerprint.weights is None
    # Its digests are of all keys of the configurations, which a run knows too.
    run = dataclasses.replace(plan.fingerprint, old_digests=("1" * 32, "2" * 32))
    assert read.fingerprint.differences(run) == []
    other = dataclasses.replace(plan.fingerprint, old_digests=("3" * 32, "2" * 32))
    assert read.fingerprint.differences(other) == ["model_config_digest"]
    _same(dataclasses.replace(plan, fingerprint=read.fingerprint), read)


def test_a_plan_of_outputs_has_one_schedule_and_no_tokens(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = _bare(make_plan, granularity="output")
    plan.save_pretrained(tmp_path)
    assert Plan.from_pretrained(tmp_path).granularity == "output"
    assert not plan.partial_mask.any()
    with pytest.raises(ValueError, match="computes all segments at the same steps"):
        make_plan(granularity="output", token_counts=None, segment_of_layer=())
    mask = np.repeat(np.arange(12)[:, None] % 3 == 0, 2, axis=1)
    same_steps = {
        "compute_mask": mask,
        "forecaster_index": np.where(mask, -1, 0).astype(np.int8),
        "token_counts": np.where(mask[:, [0, 0, 1, 1], None], 64, 16).astype(np.int32),
    }
    make_plan(**same_steps, affine_slope=None, affine_intercept=None, forecasters=("reuse",))
    with pytest.raises(ValueError, match="computes all segments at the same steps, and no tokens"):
        make_plan(granularity="output", **same_steps)


def test_saving_again_replaces_and_is_the_same_bytes(make_plan: MakePlan, tmp_path: Path) -> None:
    _bare(make_plan).save_pretrained(tmp_path)
    make_plan().save_pretrained(tmp_path)
    files = [tmp_path / PLAN_NAME, tmp_path / PLAN_TENSORS_NAME]
    before = [f.read_bytes() for f in files]
    Plan.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert [f.read_bytes() for f in files] == before
    assert files[0].stat().st_mode & 0o777 == 0o644


def test_an_interrupted_save_leaves_the_old_plan_or_a_sentence(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _bare(make_plan)
    old.save_pretrained(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make_plan().save_pretrained(tmp_path)
    monkeypatch.undo()
    _same(old, Plan.from_pretrained(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2  # no partial file

    # Between the two files: the JSON does not take the tensors of another plan for its own.
    make_plan().save_pretrained(tmp_path / "new")
    (tmp_path / "new" / PLAN_TENSORS_NAME).replace(tmp_path / PLAN_TENSORS_NAME)
    with pytest.raises(ValueError, match="damaged or belongs to another plan"):
        Plan.from_pretrained(tmp_path)


def test_a_missing_plan_is_a_missing_file(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Plan.from_pretrained(tmp_path)
    make_plan().save_pretrained(tmp_path)
    (tmp_path / PLAN_TENSORS_NAME).unlink()
    with pytest.raises(FileNotFoundError):
        Plan.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version 3 was written by another genaccel, this one reads up to 2"),
        ({"version": None}, "version None"),
        ({"author": "me"}, r"unknown keys \['author'\]"),
        ({"fingerprint": 3}, "fingerprint must be an object"),
        ({"forecasters": "reuse"}, "forecasters must be a list"),
        ({"forecasters": [1, 2, 3]}, "forecasters must hold names"),
        ({"forecasters": []}, "one of the 0 forecasters"),
        ({"segment_of_layer": [0, 0, 1, 7]}, "must name segments 0 to 1"),
        ({"segment_of_layer": [0, 0, 1, "1"]}, "must name segments"),
        ({"flop_fraction": "half"}, "flop_fraction must be above 0"),
        ({"flop_fraction": 0}, "flop_fraction must be above 0"),
        ({"expected_error": -1}, "expected_error must be finite"),
        ({"expected_error": float("inf")}, "Infinity is no number of JSON"),
        ({"tensors_sha256": "0"}, "damaged"),
    ],
)
def test_bad_values_are_one_sentence(
    make_plan: MakePlan, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    make_plan().save_pretrained(tmp_path)
    path = tmp_path / PLAN_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as error:
        Plan.from_pretrained(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_keys_are_named(make_plan: MakePlan, tmp_path: Path) -> None:
    make_plan().save_pretrained(tmp_path)
    path = tmp_path / PLAN_NAME
    values = json.loads(path.read_text())
    for key in values:
        path.write_text(json.dumps({k: v for k, v in values.items() if k != key}))
        with pytest.raises(ValueError, match=key):
            Plan.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_one_sentence(make_plan: MakePlan, tmp_path: Path, text: bytes) -> None:
    make_plan().save_pretrained(tmp_path)
    (tmp_path / PLAN_NAME).write_bytes(text)
    with pytest.raises(ValueError, match=r"is no (valid )?plan") as error:
        Plan.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_every_damaged_byte_is_noticed(make_plan: MakePlan, tmp_path: Path) -> None:
    make_plan().save_pretrained(tmp_path)
    path = tmp_path / PLAN_TENSORS_NAME
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            Plan.from_pretrained(tmp_path)
    for position in range(0, len(whole), 97):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="damaged"):
            Plan.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (b"not safetensors", "is damaged"),
        (save({"compute_mask": np.ones((12, 2), bool)}), r"holds \['compute_mask'\]"),
        (
            save({"compute_mask": np.ones((12, 2)), "forecaster_index": np.ones((12, 2), np.int8)}),
            "compute_mask must be an array of bool",
        ),
        (
            save(
                {
                    "compute_mask": np.ones((11, 2), bool),
                    "forecaster_index": np.full((11, 2), -1, np.int8),
                }
            ),
            r"compute_mask must be \[12, segments\]",
        ),
    ],
)
def test_foreign_tensors_are_refused(
    make_plan: MakePlan, tmp_path: Path, tensors: bytes, message: str
) -> None:
    make_plan().save_pretrained(tmp_path)
    path = tmp_path / PLAN_NAME
    (tmp_path / PLAN_TENSORS_NAME).write_bytes(tensors)
    digest = hashlib.sha256(tensors).hexdigest()
    path.write_text(json.dumps({**json.loads(path.read_text()), "tensors_sha256": digest}))
    with pytest.raises(ValueError, match=message):
        Plan.from_pretrained(tmp_path)


def test_parts_that_do_not_fit_are_refused(make_plan: MakePlan) -> None:
    plan = make_plan()
    late = plan.compute_mask.copy()
    late[0] = False
    counts = plan.token_counts.copy()
    counts[0, 0, 0] = 1
    for changes, message in (
        ({"compute_mask": late}, "first step must compute every segment"),
        ({"forecaster_index": np.full((12, 2), -1, np.int8)}, "exactly where compute_mask"),
        ({"token_counts": counts}, "those of the first step"),
        ({"token_counts": plan.token_counts - 32}, "those of the first step"),
        ({"token_counts": plan.token_counts[:, :3]}, "token_counts must be"),
        ({"token_counts": None}, "belongs to token_counts"),
        ({"affine_slope": None}, "come together"),
        ({"affine_slope": plan.affine_slope[:, :2]}, "must both be"),
        ({"affine_slope": plan.affine_slope * np.float32(np.nan)}, "must be finite"),
        ({"affine_slope": None, "affine_intercept": None}, "affine forecaster needs"),
        ({"affine_slope": [1.0]}, "must be an array of float32"),
    ):
        with pytest.raises(ValueError, match=message):
            make_plan(**changes)


def test_export_to_cache_dit(make_plan: MakePlan) -> None:
    plan = make_plan()
    assert plan.steps_computation_mask(0) == [1, 0, 0] * 4
    assert plan.steps_computation_mask(1) == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1]
    assert all(type(c) is int for c in plan.steps_computation_mask(1))
    with pytest.raises(ValueError, match="different schedules"):
        plan.steps_computation_mask()
    with pytest.raises(ValueError, match="segment must be from 0 to 1, got 2"):
        plan.steps_computation_mask(2)
    assert _bare(make_plan).steps_computation_mask() == [1, 0, 0] * 4
