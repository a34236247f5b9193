# SPDX-License-Identifier: Apache-2.0
"""Files of plans that can't be written, are damaged, or belong to something else take no image away."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import flux, is_fast, missing, problems, quiet, report, run_flux, the_only

import genaccel
from genaccel import SensitivityConfig
from genaccel.sensitivity.plans.plan import PLAN_NAME, PLAN_TENSORS_NAME, Plan
from genaccel.sensitivity.plans.plan_library import INDEX_NAME, PlanEntry, PlanLibrary
from genaccel.sensitivity.plans.stretch import stretch_steps

SODA = SensitivityConfig(speedup=2.0)


class TestCacheThatCanNotBeWritten:
    @pytest.fixture(params=["below a file", "a file", "proc", "too long a name", "no name at all"])
    def folder(self, request, tmp_path):
        (tmp_path / "file").write_text("taken")
        return {
            "below a file": tmp_path / "file" / "plans",
            "a file": tmp_path / "file",
            "proc": Path("/proc/genaccel/plans"),
            "too long a name": tmp_path / ("x" * 300),
            "no name at all": tmp_path / "a\0b",
        }[request.param]

    def test_the_plan_stays_in_memory(self, pipe, plain, folder, caplog):
        handle = genaccel.enable(pipe, SensitivityConfig(speedup=2.0, cache_dir=folder))
        assert torch.equal(run_flux(pipe), plain)
        replayed = run_flux(pipe)
        assert is_fast(handle)
        assert torch.equal(run_flux(pipe), replayed)
        said = the_only(problems(caplog))
        assert "set GENACCEL_CACHE or cache_dir to a folder that can be written" in said
        assert said in report(handle).notes

    @pytest.mark.parametrize("function", ["replace", "fsync"])
    def test_a_disk_that_is_full_in_the_middle(
        self, pipe, plain, function, cache, caplog, monkeypatch
    ):
        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        handle = genaccel.enable(pipe, SODA)
        with monkeypatch.context() as broken:
            broken.setattr(os, function, fail)
            assert torch.equal(run_flux(pipe), plain)
        run_flux(pipe)
        assert is_fast(handle)
        assert "No space left on device" in the_only(problems(caplog))
        # Nothing half written is left behind.
        assert not [p for p in cache.rglob("*") if p.is_file()]

    def test_a_home_that_is_not_there(self, pipe, plain, tmp_path, caplog, monkeypatch):
        (tmp_path / "file").write_text("taken")
        monkeypatch.delenv("GENACCEL_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
        with genaccel.enable(pipe, SODA) as handle:
            assert torch.equal(run_flux(pipe), plain)
            run_flux(pipe)
            assert is_fast(handle)
        assert len(problems(caplog)) == 1

    def test_no_home_at_all(self, pipe, plain, monkeypatch):
        def fail(cls):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("GENACCEL_CACHE")
        monkeypatch.setattr(Path, "home", classmethod(fail))
        with genaccel.enable(pipe, SODA) as handle:
            assert torch.equal(run_flux(pipe), plain)
            assert torch.isfinite(run_flux(pipe)).all()
            assert report(handle).notes


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def fill_with_garbage(path):
    path.write_bytes(b"\xff\x00garbage" * 20)


def become_a_folder(path):
    path.unlink()
    path.mkdir()


def lead_nowhere(path):
    path.unlink()
    path.symlink_to(path.parent / "nowhere" / "at all")


def of_another_version(values):
    values["version"] = 99


def without_a_key(values):
    del values["flop_fraction"]


def of_other_tensors(values):
    values["tensors_sha256"] = "0" * 64


def of_another_model(values):
    values["fingerprint"]["model_class"] = "WanTransformer3DModel"


def of_other_steps(values):
    values["fingerprint"]["num_inference_steps"] = 12


class TestPlansInTheCache:
    @pytest.fixture
    def folder(self, cache):
        """A plan that was kept of an earlier run, in another process."""
        made = flux()
        with genaccel.enable(made, SODA):
            run_flux(made)
        (folder,) = cache.iterdir()
        return folder

    def assert_made_anew(self, pipe, plain, folder, caplog):
        caplog.clear()
        with genaccel.enable(pipe, SODA) as handle:
            assert torch.equal(run_flux(pipe), plain)
            notes = report(handle).notes
            run_flux(pipe)
            assert is_fast(handle)
        said = the_only(problems(caplog))
        assert said in notes
        Plan.from_pretrained(folder)  # overwritten
        caplog.clear()
        other = flux()
        with genaccel.enable(other, SODA) as handle:
            assert not torch.equal(run_flux(other), plain)
            assert is_fast(handle)
        assert problems(caplog) == []

    @pytest.mark.parametrize("name", [PLAN_NAME, PLAN_TENSORS_NAME])
    @pytest.mark.parametrize("damage", [truncate, empty, fill_with_garbage])
    def test_a_damaged_one_is_made_anew(self, pipe, plain, folder, name, damage, caplog):
        damage(folder / name)
        self.assert_made_anew(pipe, plain, folder, caplog)

    @pytest.mark.parametrize("name", [PLAN_NAME, PLAN_TENSORS_NAME])
    @pytest.mark.parametrize("damage", [become_a_folder, lead_nowhere, Path.unlink])
    def test_one_that_is_no_file_takes_no_image_away(
        self, pipe, plain, folder, name, damage, caplog
    ):
        damage(folder / name)
        caplog.clear()
        with genaccel.enable(pipe, SODA) as handle:
            assert torch.equal(run_flux(pipe), plain)
            run_flux(pipe)
            assert is_fast(handle)
        assert len(problems(caplog)) <= 2  # that it can't be read, and can't be overwritten

    @pytest.mark.parametrize("change", [of_another_version, without_a_key, of_other_tensors])
    def test_one_of_another_genaccel_is_made_anew(self, pipe, plain, folder, change, caplog):
        values = json.loads((folder / PLAN_NAME).read_text())
        change(values)
        (folder / PLAN_NAME).write_text(json.dumps(values))
        self.assert_made_anew(pipe, plain, folder, caplog)

    @pytest.mark.parametrize("text", ["null", "[]", "3", "{}", "[" * 50_000])
    def test_one_that_is_something_else_is_made_anew(self, pipe, plain, folder, text, caplog):
        (folder / PLAN_NAME).write_text(text)
        self.assert_made_anew(pipe, plain, folder, caplog)

    @pytest.mark.parametrize("change", [of_another_model, of_other_steps])
    def test_one_of_another_run_is_passed_over(self, pipe, plain, folder, change):
        # As if two runs had the same hash.
        plan = Plan.from_pretrained(folder)
        values = plan.fingerprint.to_dict()
        change({"fingerprint": values})
        if values["num_inference_steps"] == 12:
            plan = stretch_steps(plan, 12)
        other = type(plan.fingerprint).from_dict(values)
        dataclasses.replace(plan, fingerprint=other).save_pretrained(folder)
        with genaccel.enable(pipe, SODA) as handle:
            assert torch.equal(run_flux(pipe), plain)
            run_flux(pipe)
            assert is_fast(handle)

    def test_one_of_other_segments_is_passed_over(self, pipe, plain, folder):
        plan = Plan.from_pretrained(folder)
        blank = dataclasses.replace(plan.fingerprint, segments=None)
        one = {
            name: value[:, :1]
            for name in ("compute_mask", "forecaster_index")
            if (value := getattr(plan, name)) is not None
        }
        if plan.num_segments == 1:
            one = {name: value.repeat(2, axis=1) for name, value in one.items()}
        try:
            other = dataclasses.replace(plan, fingerprint=blank, **one)
        except ValueError:
            pytest.skip("a plan of this granularity has no segments")
        other.save_pretrained(folder)
        with genaccel.enable(pipe, SODA) as handle:
            assert torch.equal(run_flux(pipe), plain) or is_fast(handle)
            assert torch.isfinite(run_flux(pipe)).all()


class TestPlansBesideTheModel:
    @pytest.fixture
    def folder(self, tmp_path):
        """A saved pipeline with a plan beside it."""
        made = flux()
        config = SensitivityConfig(speedup=2.0, cache_dir=tmp_path / "elsewhere")
        made.save_pretrained(tmp_path / "model")
        with genaccel.enable(made, config) as handle:
            run_flux(made)
            plan = handle.plans["transformer"]
        library = PlanLibrary(tmp_path / "model" / "sensitivity")
        library.add(
            plan, PlanEntry("two", "transformer", 1 / plan.flop_fraction, psnr=30.0, st_lpips=0.05)
        )
        return tmp_path / "model"

    @pytest.fixture
    def loaded(self, folder):
        return quiet(FluxPipeline.from_pretrained(folder, **missing("", "_2")))

    def test_a_whole_one_is_used(self, loaded):
        with genaccel.enable(loaded, SODA) as handle:
            run_flux(loaded)
            assert is_fast(handle)
            assert report(handle).plan.startswith("beside the model (two)")

    @pytest.mark.parametrize("damage", [truncate, become_a_folder, lead_nowhere])
    @pytest.mark.parametrize(
        "name", [INDEX_NAME, f"two/{PLAN_NAME}", f"two/{PLAN_TENSORS_NAME}"], ids=lambda n: n[-12:]
    )
    @pytest.mark.parametrize("when", ["before enable", "after enable"])
    def test_a_damaged_one_is_passed_over(self, loaded, folder, name, damage, when, caplog):
        plain = run_flux(loaded)
        path = folder / "sensitivity" / name
        if when == "before enable":
            damage(path)
        handle = genaccel.enable(loaded, SODA)
        if when == "after enable":
            damage(path)
        assert torch.equal(run_flux(loaded), plain)
        run_flux(loaded)
        assert is_fast(handle)
        if name == INDEX_NAME and damage in (become_a_folder, lead_nowhere):
            return  # there is no index then
        said = the_only(problems(caplog))
        assert "passed over" in said
        assert said in report(handle).notes

    def test_one_of_a_model_that_was_changed_is_passed_over(self, loaded):
        with torch.no_grad():
            loaded.transformer.x_embedder.weight.mul_(2)
        plain = run_flux(loaded)
        with genaccel.enable(loaded, SODA) as handle:
            assert torch.equal(run_flux(loaded), plain)
            assert not is_fast(handle)

    @pytest.mark.parametrize("target", [{"min_psnr": 20.0}, {"max_lpips": 0.1}])
    def test_a_quality_that_no_plan_keeps_any_more_is_computed_in_full(
        self, folder, loaded, target, caplog
    ):
        plain = run_flux(loaded)
        handle = genaccel.enable(loaded, SensitivityConfig(**target))
        truncate(folder / "sensitivity" / "two" / PLAN_NAME)
        for _ in range(2):
            assert torch.equal(run_flux(loaded), plain)
        assert "passed over" in the_only(problems(caplog))
        assert any("measure some with `genaccel tune`" in note for note in report(handle).notes)

    @pytest.mark.parametrize("target", [{"min_psnr": 20.0}, {"max_lpips": 0.1}])
    def test_a_quality_that_a_plan_keeps_is_kept(self, loaded, target):
        with genaccel.enable(loaded, SensitivityConfig(**target)) as handle:
            run_flux(loaded)
            assert is_fast(handle)


class TestGivenPlans:
    @pytest.fixture
    def folder(self, tmp_path):
        made = flux()
        with genaccel.enable(made, SODA) as handle:
            run_flux(made)
            handle.save_pretrained(tmp_path / "given")
        return tmp_path / "given"

    def test_a_damaged_one_is_refused_at_enable(self, pipe, plain, folder):
        truncate(folder / "transformer" / PLAN_NAME)
        with pytest.raises(ValueError, match=r"has no plan that meets the target.*is no (valid )?plan"):  # fmt: skip
            genaccel.enable(pipe, SensitivityConfig(plan=folder))
        assert not genaccel.is_enabled(pipe)
        assert type(pipe) is FluxPipeline
        assert torch.equal(run_flux(pipe), plain)

    @pytest.mark.parametrize("damage", [truncate, lead_nowhere])
    @pytest.mark.parametrize("name", [PLAN_NAME, PLAN_TENSORS_NAME])
    @pytest.mark.parametrize("target", [{}, {"speedup": 2.0}], ids=["no target", "2x"])
    def test_one_that_is_damaged_behind_our_back(
        self, pipe, plain, folder, damage, name, target, caplog
    ):
        handle = genaccel.enable(pipe, SensitivityConfig(plan=folder, **target))
        damage(folder / "transformer" / name)
        caplog.clear()
        first = run_flux(pipe)
        # It may have been read at enable: then it is used as it was.
        assert torch.equal(first, plain) or is_fast(handle)
        if not is_fast(handle):
            assert name in the_only(problems(caplog))
            assert any(name in note for note in report(handle).notes)
        assert torch.isfinite(run_flux(pipe)).all()
