# SPDX-License-Identifier: Apache-2.0
import dataclasses

import pytest

from genaccel import zoo
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.plans import plan_library
from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary, cached_plan_folder


def chosen(library, run=None, component="transformer", **target):
    found = library.choose(SensitivityConfig(**target), component, run)
    return None if found is None else found[0].folder


@pytest.fixture
def library(tmp_path, make_plan):
    """Three measured plans of one run."""
    made = PlanLibrary(tmp_path / "plans")
    for folder, ratio, psnr, distance in (
        ("slow", 1.5, 40.0, 0.01),
        ("mid", 2.0, 35.0, 0.05),
        ("fast", 3.0, 25.0, 0.2),
    ):
        entry = PlanEntry(
            folder, "transformer", ratio, speedup=ratio * 0.9, psnr=psnr, st_lpips=distance
        )
        made.add(make_plan(), entry)
    return made


def test_it_is_there_again_after_it_is_read_anew(library):
    again = PlanLibrary(library.folder)
    assert again.entries == library.entries
    assert again.load(again.entries[0]).flop_fraction == 0.4


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert PlanLibrary(tmp_path / "none").entries == []


def test_a_plan_of_the_same_folder_is_replaced(library, make_plan):
    library.add(make_plan(flop_fraction=0.3), PlanEntry("mid", "transformer", 3.3))
    assert [e.folder for e in library.entries] == ["slow", "fast", "mid"]
    assert library.load(library.entries[-1]).flop_fraction == 0.3


def test_a_lone_plan_is_a_library_of_one_for_any_component(tmp_path, make_plan):
    make_plan().save_pretrained(tmp_path)
    assert chosen(PlanLibrary(tmp_path), component="anything", speedup=2.5) == "."
    assert chosen(PlanLibrary(tmp_path), plan=tmp_path) == "."


@pytest.mark.parametrize("text", ["{", '[{"folder": "x"}]', "[1]", '{"a": 1}'])
def test_a_damaged_index_is_named(tmp_path, text):
    (tmp_path / "plans.json").write_text(text)
    with pytest.raises(ValueError, match=r"plans\.json is no index of plans"):
        PlanLibrary(tmp_path)


@pytest.mark.parametrize(
    ("target", "folder"),
    [
        ({"speedup": 1.2}, "slow"),
        ({"speedup": 1.8}, "mid"),
        ({"speedup": 2.03}, "mid"),  # steps are whole: 2.0 is near enough
        ({"speedup": 2.3}, "fast"),
        ({"speedup": 2.1}, None),  # 3 gives up quality that nobody wanted to give up
        ({"speedup": 4.0}, None),
        ({"min_psnr": 30.0}, "mid"),
        ({"min_psnr": 20.0}, "fast"),
        ({"min_psnr": 50.0}, None),
        ({"max_lpips": 0.05}, "mid"),
        ({"max_lpips": 0.001}, None),
    ],
)
def test_targets_choose(library, target, folder):
    assert chosen(library, **target) == folder


def test_the_best_of_those_that_are_fast_enough_is_taken_even_if_it_is_faster(library, make_plan):
    better = PlanEntry("tuned", "transformer", 2.5, speedup=2.2, psnr=37.0)
    library.add(make_plan(), better)
    assert chosen(library, speedup=2.0) == "tuned"
    library.add(make_plan(), PlanEntry("unmeasured", "transformer", 2.0))
    assert chosen(library, speedup=2.0) == "tuned"


def test_plans_without_figures_are_chosen_by_the_nearest_speedup(tmp_path, make_plan):
    library = PlanLibrary(tmp_path)
    for ratio in (3.0, 2.0, 4.0):
        library.add(make_plan(), PlanEntry(f"{ratio:g}", "transformer", ratio))
    assert chosen(library, speedup=1.5) == "2"
    assert chosen(library, min_psnr=20.0) is None


def test_other_components_are_passed_over(library):
    assert chosen(library, component="transformer_2", speedup=1.5) is None


def test_plans_for_other_runs_are_passed_over_but_for_steps_and_sizes(library, make_plan):
    run = make_plan().fingerprint
    other = dataclasses.replace(run, scheduler_class="Another")
    assert chosen(library, run, speedup=1.5) == "slow"
    assert chosen(library, other, speedup=1.5) is None
    library.add(make_plan(24), PlanEntry("longer", "transformer", 1.5, psnr=10.0))
    longer = dataclasses.replace(run, num_inference_steps=24)
    assert chosen(library, longer, speedup=1.5) == "longer"  # whatever the others' figures
    near = dataclasses.replace(run, width=128, guidance_scale=9.0)
    assert chosen(library, near, speedup=1.5) == "slow"


def test_plans_of_other_steps_are_for_those_who_name_them(library, make_plan):
    between = dataclasses.replace(make_plan().fingerprint, num_inference_steps=20)
    assert chosen(library, between, speedup=1.5) is None
    assert chosen(library, between, speedup=1.5, plan=library.folder) == "slow"
    # A quality was measured, and can't be met by measuring this run.
    assert chosen(library, between, min_psnr=30.0) == "mid"


@pytest.mark.parametrize(
    ("speedup", "steps"), [(2.0, 8), (2.0, 12), (2.0, 20), (2.0, 50), (3.0, 50)]
)
def test_the_zoo_ships_plans_for_several_numbers_of_steps(speedup, steps):
    library = PlanLibrary(zoo.path("landscapes-dit") / "sensitivity")
    made_for = [library.load(entry).fingerprint for entry in library.entries]
    run = next(f for f in made_for if f.num_inference_steps == steps)
    found = library.choose(SensitivityConfig(speedup=speedup), "transformer", run)
    assert found is not None
    entry, plan = found
    assert plan.fingerprint.num_inference_steps == steps
    assert entry.flop_ratio >= 0.98 * speedup
    assert entry.psnr > 30
    between = dataclasses.replace(run, num_inference_steps=30)
    assert library.choose(SensitivityConfig(speedup=speedup), "transformer", between) is None


def test_the_cache_tells_runs_and_settings_apart_but_not_guidance(make_plan, tmp_path, monkeypatch):
    run = make_plan().fingerprint
    config = SensitivityConfig(speedup=2.0, cache_dir=tmp_path)
    folder = cached_plan_folder(config, run, "t")
    assert folder.parent == tmp_path
    assert folder == cached_plan_folder(config, dataclasses.replace(run, guidance_scale=7.0), "t")
    assert folder == cached_plan_folder(dataclasses.replace(config, cache_megabytes=5.0), run, "t")
    assert folder != cached_plan_folder(dataclasses.replace(config, max_interval=5), run, "t")
    assert folder != cached_plan_folder(config, dataclasses.replace(run, height=512), "t")
    assert folder != cached_plan_folder(config, run, "u")
    monkeypatch.setattr(plan_library, "_PLANNER_VERSION", 1)
    assert folder != cached_plan_folder(config, run, "t")
