# SPDX-License-Identifier: Apache-2.0
import dataclasses
import random

import numpy as np
import pytest
import torch

import genaccel
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.plans.plan_library import PlanLibrary
from genaccel.sensitivity.study import tune as tune_module
from genaccel.sensitivity.study.tune import find_entry, move_step, tune


def absolute(a, b):
    """Some distance of images."""
    return float(np.abs(a.astype(float) - b).mean())


@pytest.fixture
def short(monkeypatch):
    """Three candidates are enough."""
    monkeypatch.setattr(tune_module, "CANDIDATES", tune_module.CANDIDATES[:3])


def test_the_best_is_kept_resumed_and_found_by_quality(
    pipeline, calls, sample, tmp_path, short, monkeypatch
):
    plain = sample(pipeline)
    tried = []
    judge = tune_module._Trials.psnr

    def remember(self, plan):
        tried.append((judge(self, plan), plan))
        return tried[-1][0]

    monkeypatch.setattr(tune_module._Trials, "psnr", remember)
    library = tune(
        pipeline, calls, speedups=[1.5, 2.0], out=tmp_path / "out", refine=4, distance=absolute
    )
    assert torch.equal(sample(pipeline), plain)
    slow, fast = library.entries
    assert (slow.folder, fast.folder) == ("speedup-1.5-steps-8", "speedup-2-steps-8")
    assert fast.flop_ratio >= 2.0
    assert fast.st_lpips is not None
    assert fast.speedup > 0
    for entry in library.entries:
        values = [psnr for psnr, plan in tried if 1 / plan.flop_fraction == entry.flop_ratio]
        assert values
        assert entry.psnr == pytest.approx(max(values))

    tried.clear()
    again = tune(pipeline, calls, speedups=[1.5, 2.0], out=tmp_path / "out", refine=4)
    assert again.entries == library.entries
    assert tried == []
    more = tune(pipeline, calls, speedups=[1.5, 3.0], out=tmp_path / "out")
    assert [e.folder for e in more.entries] == [f"speedup-{s}-steps-8" for s in ("1.5", "2", "3")]
    assert len(tried) == 3 + 2  # and even spacing

    config = SensitivityConfig(plan=tmp_path / "out", min_psnr=fast.psnr)
    with genaccel.enable(pipeline, config) as handle:
        sample(pipeline)
        assert handle.report()["transformer"].flop_ratio >= 1.5
    distant = SensitivityConfig(
        plan=tmp_path / "out", max_lpips=max(fast.st_lpips, slow.st_lpips, 0.01)
    )
    with genaccel.enable(pipeline, distant):
        sample(pipeline)


def test_a_stopped_search_has_kept_what_is_done(pipeline, calls, tmp_path, short, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    made = tune_module._Trials.result
    results = iter([made, interrupted])
    monkeypatch.setattr(tune_module._Trials, "result", lambda *args: next(results)(*args))
    with pytest.raises(KeyboardInterrupt):
        tune(pipeline, calls[:1], speedups=[1.5, 2.0], out=tmp_path)
    assert [e.folder for e in PlanLibrary(tmp_path).entries] == ["speedup-1.5-steps-8"]
    assert not hasattr(pipeline.transformer, "_diffusers_hook")


def test_a_candidate_that_cannot_reach_the_speedup_is_passed_over(
    pipeline, calls, tmp_path, monkeypatch
):
    candidates = ({"warmup_steps": 8}, {"forecasters": ("reuse",)})
    monkeypatch.setattr(tune_module, "CANDIDATES", candidates)
    monkeypatch.setattr(tune_module, "EVEN_CANDIDATES", ())
    library = tune(pipeline, calls[:1], speedups=[3.4], out=tmp_path)
    assert library.load(library.entries[0]).forecasters == ("reuse",)


def test_images_too_small_for_the_metric_are_refused_before_the_trials(pipeline, calls, tmp_path):
    def refuse(a, b):
        raise ValueError("too small")

    with pytest.raises(ValueError, match="too small"):
        tune(pipeline, calls[:1], speedups=[2.0], out=tmp_path, distance=refuse)
    with pytest.raises(ValueError, match="at least one generation"):
        tune(pipeline, [], out=tmp_path)


def test_moves_change_one_step_and_no_flops(make_plan):
    plan = make_plan(token_counts=None, segment_of_layer=())
    errors = np.random.default_rng(0).random((3, 12, 6, 2))
    chance = random.Random(0)
    moved = [move_step(plan, errors, plan.forecasters, chance) for _ in range(60)]
    found = [m for m in moved if m is not None]
    assert found
    for other in found:
        assert (other.compute_mask.sum(axis=0) == plan.compute_mask.sum(axis=0)).all()
        rows = (other.compute_mask != plan.compute_mask).any(axis=1)
        assert rows.sum() == 2
        assert other.compute_mask[0].all()


def test_nothing_can_be_moved_where_every_step_is_computed(make_plan):
    mask = np.ones((12, 2), dtype=bool)
    plan = make_plan(
        compute_mask=mask,
        forecaster_index=np.full((12, 2), -1, dtype=np.int8),
        token_counts=None,
        segment_of_layer=(),
    )
    errors = np.ones((3, 12, 6, 2))
    assert all(
        move_step(plan, errors, plan.forecasters, random.Random(s)) is None for s in range(20)
    )


def test_plans_for_other_steps_lie_side_by_side(pipeline, calls, tmp_path, short):
    out = tmp_path / "plans"
    longer = [{**calls[0], "num_inference_steps": 10}]
    tune(pipeline, calls[:1], speedups=[2.0], out=out)
    library = tune(pipeline, longer, speedups=[2.0], out=out)
    assert [e.folder for e in library.entries] == ["speedup-2-steps-8", "speedup-2-steps-10"]
    steps = [library.load(e).fingerprint.num_inference_steps for e in library.entries]
    assert steps == [8, 10]
    found = [find_entry(library, "transformer", 2.0, n) for n in (8, 10, 50)]
    assert found == [*library.entries, None]
    assert find_entry(library, "transformer_2", 2.0, 8) is None


def test_folders_without_steps_in_their_names_are_known(
    pipeline, calls, tmp_path, short, monkeypatch
):
    library = tune(pipeline, calls[:1], speedups=[2.0], out=tmp_path / "new")
    (entry,) = library.entries
    old = PlanLibrary(tmp_path / "old")
    old.add(library.load(entry), dataclasses.replace(entry, folder="speedup-2"))
    monkeypatch.setattr(tune_module, "measuring", None)  # nothing is to be measured
    again = tune(pipeline, calls[:1], speedups=[2.0], out=old.folder)
    assert [e.folder for e in again.entries] == ["speedup-2"]
    assert find_entry(again, None, 2.0, 8) == again.entries[0]
    # It is of 8 steps, whatever its name leaves out.
    assert find_entry(again, None, 2.0, 10) is None


def test_forecasts_of_modules_are_among_the_trials(pipeline, calls, sample, tmp_path, monkeypatch):
    whole, modules = ({"granularity": g} for g in ("segment", "module"))
    assert {whole["granularity"], modules["granularity"]} <= {
        c.get("granularity") for c in tune_module.CANDIDATES
    }
    monkeypatch.setattr(tune_module, "CANDIDATES", (modules,))
    monkeypatch.setattr(tune_module, "EVEN_CANDIDATES", ())
    library = tune(pipeline, calls[:1], speedups=[2.0], out=tmp_path)
    assert library.load(library.entries[0]).granularity == "module"
    # It is used by those who ask for nothing but a speed-up.
    with genaccel.enable(pipeline, SensitivityConfig(speedup=2.0, plan=tmp_path)) as handle:
        sample(pipeline)
        report = handle.report()["transformer"]
    assert report.flop_ratio == pytest.approx(library.entries[0].flop_ratio)


def test_plans_of_segments_of_their_own_have_no_modules(pipeline, calls, tmp_path, short):
    config = SensitivityConfig(speedup=2.0).changed(shared_schedule=False, max_blocks=2)
    library = tune(pipeline, calls[:1], speedups=[1.5], out=tmp_path, config=config)
    assert library.load(library.entries[0]).granularity == "segment"


def test_even_spacing_is_among_the_trials(pipeline, calls, tmp_path, monkeypatch):
    monkeypatch.setattr(tune_module, "CANDIDATES", ())
    library = tune(pipeline, calls[:1], speedups=[2.0], out=tmp_path)
    plan = library.load(library.entries[0])
    gaps = np.diff(np.flatnonzero(plan.compute_mask[:, 0]))
    assert gaps.max() - gaps.min() <= 1
    assert plan.forecasters in (("taylor1",), ("taylor2",))
