# SPDX-License-Identifier: Apache-2.0
"""Plans and libraries by somebody who means harm, or by accident: a sentence, and never an error of another kind."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load, save
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import genaccel
from genaccel.hooks.director import Structure
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.plans.plan import PLAN_NAME, PLAN_TENSORS_NAME, Plan
from genaccel.sensitivity.plans.plan_library import (
    INDEX_NAME,
    PlanEntry,
    PlanLibrary,
    cached_plan_folder,
)
from genaccel.sensitivity.plans.plan_source import PlanSource, fits_structure

DEEP = json.loads("[" * 300 + "]" * 300)
WRONG = [None, True, -1, 2**70, 1e300, "x" * 10_000, ["x"], [[]], {}, DEEP]


@pytest.fixture
def folder(tmp_path, make_plan):
    """A saved plan."""
    make_plan().save_pretrained(tmp_path / "plan")
    return tmp_path / "plan"


@pytest.fixture
def library(tmp_path, make_plan):
    """A library of one plan."""
    made = PlanLibrary(tmp_path / "library")
    made.add(make_plan(), PlanEntry("first", "transformer", 2.0, psnr=30.0))
    return made


def write_index(library, **changes):
    entry = dataclasses.asdict(library.entries[0]) | changes
    (library.folder / INDEX_NAME).write_text(json.dumps([entry]))


def rewrite(folder, tensors):
    """Other tensors, with the digest that the plan holds of them."""
    (folder / PLAN_TENSORS_NAME).write_bytes(tensors)
    values = json.loads((folder / PLAN_NAME).read_text())
    values["tensors_sha256"] = hashlib.sha256(tensors).hexdigest()
    (folder / PLAN_NAME).write_text(json.dumps(values))


def refused(folder, match=None):
    with pytest.raises(ValueError, match=match) as error:
        Plan.from_pretrained(folder)
    assert str(error.value).startswith(str(folder / PLAN_NAME))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_no_value_of_a_plan_may_be_anything(folder):
    values = json.loads((folder / PLAN_NAME).read_text())
    # What may be anything of its type, or missing.
    fine = {"expected_error": (None, 1e300), "guidance_scale": (None, -1, 1e300)}
    unknown = ("segments", "start_step", "schedule_digest", "weights", "weights_dtype", "control")
    for owner, fields in (("", values), ("fingerprint", values["fingerprint"])):
        for key in fields:
            for wrong in WRONG:
                is_text = isinstance(fields[key], str) or key in unknown
                if key == "tensors_sha256" or (is_text and isinstance(wrong, str)):
                    continue
                if (type(wrong) is not bool and wrong in fine.get(key, ())) or (
                    key in unknown and wrong is None
                ):
                    continue
                if key in ("adapters", "weights") and wrong == ["x"]:
                    continue
                changed = json.loads(json.dumps(values))
                (changed[owner] if owner else changed)[key] = wrong
                (folder / PLAN_NAME).write_text(json.dumps(changed))
                refused(folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("affine_slope", np.ones((12, 3, 2, 2), np.float64), "float32, got F64"),
        ("affine_slope", np.full((12, 3, 2, 2), np.nan, np.float32), "must be finite"),
        ("affine_slope", np.ones((12, 0, 2, 2), np.float32), "affine_slope and affine_intercept"),
        ("compute_mask", np.ones((12, 2), np.uint8), "bool, got U8"),
        ("compute_mask", np.ones((3, 2), bool), r"compute_mask must be \[12, segments\]"),
        ("compute_mask", np.ones((12, 0), bool), "compute_mask must be"),
        ("forecaster_index", np.full((12, 2), 100, np.int8), "forecaster_index must be"),
        ("token_counts", np.full((12, 4, 2), 2**31 - 1, np.int64), "int32, got I64"),
        ("token_counts", np.full((12, 4, 0), 1, np.int32), "token_counts must be"),
        ("token_counts", np.full((12, 4, 2), -1, np.int32), "token_counts must be those"),
        ("more", np.ones(1, np.float32), "holds"),
    ],
)
def test_odd_tensors_are_one_sentence(folder, name, array, message):
    tensors = load((folder / PLAN_TENSORS_NAME).read_bytes())
    rewrite(folder, save({**tensors, name: array}))
    refused(folder, message)


def test_bfloat16_which_numpy_does_not_know_is_one_sentence(folder):
    tensors = load_tensors((folder / PLAN_TENSORS_NAME).read_bytes())
    tensors["affine_slope"] = tensors["affine_slope"].bfloat16()
    rewrite(folder, save_tensors(tensors))
    refused(folder, "affine_slope must be an array of float32, got BF16")


def test_booleans_that_are_neither_are_refused(folder):
    data = (folder / PLAN_TENSORS_NAME).read_bytes()
    mask = load(data)["compute_mask"].tobytes()
    rewrite(folder, data.replace(mask, mask[:-1] + b"\7"))
    refused(folder, "compute_mask must hold 0 and 1")


@pytest.mark.parametrize("name", [PLAN_NAME, PLAN_TENSORS_NAME])
def test_pipes_devices_and_large_files_are_not_read(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(FileNotFoundError):
        Plan.from_pretrained(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(FileNotFoundError):
        Plan.from_pretrained(folder)
    (folder / name).unlink()
    with (folder / name).open("wb") as stream:
        stream.truncate(2**27)
    refused(folder, "is larger than")


def test_forecasters_that_no_run_knows_are_refused(make_plan):
    for names in (("reuse", "taylor9", "affine"), ("reuse", "taylor", "affine"), ("a", "b", "c")):
        with pytest.raises(ValueError, match="forecasters must be some of reuse, taylor1"):
            make_plan(forecasters=names)
    mask = np.repeat(np.arange(12)[:, None] % 3 == 0, 2, axis=1)
    with pytest.raises(ValueError, match="has no affine forecaster"):
        make_plan(
            compute_mask=mask,
            forecasters=("affine",),
            forecaster_index=np.where(mask, -1, 0).astype(np.int8),
            granularity="output",
            token_counts=None,
            segment_of_layer=(),
        )


@pytest.mark.parametrize("where", ["../evil", "a/../../evil", "..", "{tmp}/evil", "/etc", "x\0y"])
def test_no_folder_leads_out_of_a_library(library, tmp_path, make_plan, where):
    make_plan().save_pretrained(tmp_path / "evil")
    write_index(library, folder=where.format(tmp=tmp_path))
    with pytest.raises(
        ValueError, match=r"plans\.json is no index of plans: folder must be one in"
    ):
        PlanLibrary(library.folder)


def test_a_linked_folder_is_passed_over_and_linked_files_are_read(library, tmp_path, caplog):
    outside = tmp_path / "outside"
    (library.folder / "first").rename(outside)
    (library.folder / "first").symlink_to(outside)
    config = SensitivityConfig(speedup=2.0)
    assert library.choose(config, "transformer") is None
    assert "leads out of the library" in library.damaged[0]
    (library.folder / "first").unlink()
    (library.folder / "first").mkdir()
    for name in (PLAN_NAME, PLAN_TENSORS_NAME):  # as in the cache of the hub
        (library.folder / "first" / name).symlink_to(outside / name)
    assert library.choose(config, "transformer") is not None


@pytest.mark.parametrize("key", ["folder", "component", "flop_ratio", "speedup", "psnr", "config"])
def test_no_value_of_an_index_may_be_anything(library, key):
    for wrong in WRONG:
        is_optional = key in ("speedup", "psnr", "config") and wrong is None
        is_number = key in ("speedup", "psnr") and wrong in (-1, 1e300) and wrong is not True
        is_text = key in ("folder", "component") and isinstance(wrong, str)
        if is_optional or is_number or is_text or (key == "config" and wrong == {}):
            continue
        write_index(library, **{key: wrong})
        with pytest.raises(ValueError, match="is no index of plans"):
            PlanLibrary(library.folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[null]", "3", '[{"folder": NaN}]', "[[1]]", "null"]
)
def test_an_index_of_another_form_is_one_sentence(library, text):
    (library.folder / INDEX_NAME).write_text(text)
    with pytest.raises(ValueError, match="is no index of plans"):
        PlanLibrary(library.folder)


def test_equal_samples_have_an_infinite_psnr_that_is_read_again(library, make_plan):
    library.add(make_plan(), PlanEntry("same", "transformer", 2.0, psnr=float("inf")))
    assert PlanLibrary(library.folder).entries[-1].psnr == float("inf")


def test_names_that_are_too_long_for_a_file_system_are_passed_over(library):
    write_index(library, folder="x" * 5000)
    again = PlanLibrary(library.folder)
    assert again.choose(SensitivityConfig(speedup=2.0), "transformer") is None
    assert len(again.damaged) == 1


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"version": 2}', "NaN"])
def test_a_damaged_plan_in_the_cache_is_measured_again(tmp_path, make_plan, caplog, text):
    config = SensitivityConfig(speedup=2.0, cache_dir=tmp_path)
    plan = make_plan()
    source = PlanSource(config, "transformer", object())
    source.keep(plan)
    folder = cached_plan_folder(config, plan.fingerprint, "transformer")
    (folder / PLAN_NAME).write_text(text)
    with caplog.at_level(logging.WARNING):
        fresh = PlanSource(config, "transformer", object())
        assert fresh.stored_plan(plan.fingerprint) is None
    assert "can't be used and is made anew" in caplog.text
    fresh.keep(plan)
    assert Plan.from_pretrained(folder).flop_fraction == plan.flop_fraction


def test_a_run_with_a_damaged_cache_ends_well(tmp_path, pipeline, sample):
    config = SensitivityConfig(speedup=2.0, cache_dir=tmp_path)
    with genaccel.enable(pipeline, config):
        sample(pipeline)
    for path in tmp_path.rglob(PLAN_TENSORS_NAME):
        path.write_bytes(path.read_bytes()[:-7])
    with genaccel.enable(pipeline, config) as handle:
        sample(pipeline)
        (report,) = handle.report().values()
    assert any("made anew" in note for note in report.notes)


def test_a_given_library_with_one_damaged_plan_serves_the_others(library, make_plan):
    library.add(make_plan(), PlanEntry("second", "transformer", 3.0))
    shutil.rmtree(library.folder / "second")

    class DiTTransformer2DModel:
        pass

    config = SensitivityConfig(plan=library.folder)
    assert PlanSource(config, "transformer", DiTTransformer2DModel()).may_be_partial


def test_tokens_of_layers_that_have_none_do_not_fit(make_plan):
    class Layer:
        def __init__(self, segment, num_tokens):
            self.segment, self.num_tokens = segment, num_tokens

    plan = make_plan()

    def structure(*tokens):
        made = object.__new__(Structure)
        layers = tuple(Layer(s, n) for s, n in zip(plan.segment_of_layer, tokens, strict=True))
        for name, value in (("segments", (1, 2)), ("layers", layers)):
            object.__setattr__(made, name, value)
        return made

    assert fits_structure(plan, structure(64, 64, 64, 64))
    assert not fits_structure(plan, structure(64, 64, 0, 64))
