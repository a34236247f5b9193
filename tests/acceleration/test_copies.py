# SPDX-License-Identifier: Apache-2.0
"""Copies of what is enabled, in memory or on disk, are plain, and know nothing of the original."""

import copy
import gc
import io
import json
import pickle
import sys
import weakref
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline, FluxTransformer2DModel

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import (
    flux,
    flux_inputs,
    is_fast,
    missing,
    quiet,
    run_flux,
    traces,
)

import genaccel
from genaccel import SensitivityConfig


@pytest.fixture(params=["output", "segment", "module"])
def config(request):
    return SensitivityConfig(speedup=2.0, granularity=request.param)


@pytest.fixture
def handle(pipe, plain, config):
    """The pipeline is enabled, and has made a measured run and a fast one."""
    made = genaccel.enable(pipe, config)
    run_flux(pipe)
    run_flux(pipe)
    return made


def call(transformer):
    with torch.no_grad():
        return transformer(**flux_inputs())[0]


def change(transformer):
    with torch.no_grad():
        transformer.proj_out.weight.add_(1.0)


class TestDeepCopies:
    def test_of_the_transformer_is_plain(self, pipe, handle, plain):
        with handle.paused():
            expected = call(pipe.transformer)
        twin = copy.deepcopy(pipe.transformer)
        assert type(twin) is FluxTransformer2DModel
        assert traces(twin) == []
        assert torch.equal(call(twin), expected)
        other = flux(transformer=twin)
        assert torch.equal(run_flux(other), plain)
        assert torch.equal(run_flux(other), plain)
        assert not genaccel.is_enabled(other)

    def test_of_the_transformer_has_its_own_weights(self, pipe, handle, plain):
        replayed = run_flux(pipe)
        twin = copy.deepcopy(pipe.transformer)
        before = call(twin)
        change(pipe.transformer)
        assert torch.equal(call(twin), before)
        with torch.no_grad():
            pipe.transformer.proj_out.weight.sub_(1.0)
        change(twin)
        assert not torch.equal(call(twin), before)
        assert run_flux(pipe).shape == replayed.shape

    def test_is_right_after_the_original_was_disabled_or_is_gone(self, pipe, handle, plain):
        twin = copy.deepcopy(pipe.transformer)
        handle.disable()
        assert torch.equal(run_flux(flux(transformer=twin)), plain)
        assert torch.equal(run_flux(pipe), plain)
        gone = weakref.ref(pipe.transformer)
        pipe.transformer = None
        del handle
        gc.collect()
        assert torch.equal(run_flux(flux(transformer=twin)), plain)
        # The fixtures hold the pipeline, not what was in it.
        assert gone() is None or "attachments" not in str(gc.get_referrers(gone()))

    def test_does_not_keep_the_original_in_memory(self, plain, config):
        pipe = flux()
        with genaccel.enable(pipe, config):
            run_flux(pipe)
            twin = copy.deepcopy(pipe.transformer)
            other = copy.deepcopy(pipe)
        gone = [weakref.ref(pipe.transformer), weakref.ref(pipe)]
        del pipe
        gc.collect()
        assert [reference() for reference in gone] == [None, None]
        assert torch.equal(call(twin), call(other.transformer))

    def test_of_a_transformer_that_is_enabled_itself(self, pipe, plain, config):
        handle = genaccel.enable(pipe.transformer, config, num_inference_steps=10)
        run_flux(pipe)
        assert not torch.equal(run_flux(pipe), plain)
        twin = copy.deepcopy(pipe.transformer)
        assert not genaccel.is_enabled(twin)
        assert torch.equal(run_flux(flux(transformer=twin)), plain)
        handle.disable()
        assert torch.equal(run_flux(pipe), plain)

    def test_of_the_pipeline_is_a_plain_pipeline(self, pipe, handle, plain):
        replayed = run_flux(pipe)
        twin = copy.deepcopy(pipe)
        assert type(twin) is FluxPipeline
        assert not genaccel.is_enabled(twin)
        assert not any("genaccel" in key for key in vars(twin))
        for name in ("step", "set_timesteps"):
            assert getattr(twin.scheduler, name).__self__ is twin.scheduler
        assert traces(twin.transformer) == []
        assert twin.transformer is not pipe.transformer
        for _ in range(2):
            assert torch.equal(run_flux(twin), plain)
        assert torch.equal(run_flux(pipe), replayed)
        handle.disable()
        assert torch.equal(run_flux(twin), plain)
        assert torch.equal(run_flux(pipe), plain)

    def test_of_the_pipeline_may_be_enabled(self, pipe, handle, plain, config):
        replayed = run_flux(pipe)
        twin = copy.deepcopy(pipe)
        of_twin = genaccel.enable(twin, config)
        assert torch.equal(run_flux(twin), replayed)  # the plan was in the cache
        of_twin.disable()
        assert torch.equal(run_flux(twin), plain)
        assert handle.is_enabled
        assert torch.equal(run_flux(pipe), replayed)

    def test_a_shallow_copy_of_the_pipeline_is_plain_too(self, pipe, handle, plain):
        replayed = run_flux(pipe)
        twin = copy.copy(pipe)
        assert not genaccel.is_enabled(twin)
        assert twin.transformer is pipe.transformer
        assert torch.equal(run_flux(twin), plain)
        assert torch.equal(run_flux(pipe), replayed)
        genaccel.disable(twin)
        assert handle.is_enabled
        assert torch.equal(run_flux(pipe), replayed)

    def test_in_the_middle_of_a_run(self, pipe, handle, plain):
        replayed = run_flux(pipe)
        twins = []

        def twin(pipe, index, timestep, values):
            if index == 4:
                twins.extend([copy.deepcopy(pipe.transformer), copy.deepcopy(pipe)])
            return values

        assert torch.equal(run_flux(pipe, callback_on_step_end=twin), replayed)
        assert torch.equal(run_flux(flux(transformer=twins[0])), plain)
        assert torch.equal(run_flux(twins[1]), plain)

    def test_of_weights_alone(self, pipe, handle):
        with handle.paused():
            expected = call(pipe.transformer)
        state = pipe.transformer.state_dict()
        assert not any("hook" in key or "genaccel" in key for key in state)
        other = FluxTransformer2DModel.from_config(pipe.transformer.config).eval()
        other.load_state_dict(state)
        assert torch.equal(call(other), expected)


class TestFiles:
    def test_a_saved_pipeline_goes_by_the_name_of_its_class(self, pipe, handle, plain, tmp_path):
        pipe.save_pretrained(tmp_path / "model")
        index = json.loads((tmp_path / "model" / "model_index.json").read_text())
        assert index["_class_name"] == "FluxPipeline"
        assert index["transformer"] == ["diffusers", "FluxTransformer2DModel"]
        loaded = quiet(DiffusionPipeline.from_pretrained(tmp_path / "model", **missing("", "_2")))
        assert type(loaded) is FluxPipeline
        # Weights in a mapped file are elsewhere in a cache line: the last bit differs.
        torch.testing.assert_close(run_flux(loaded), plain, rtol=1e-3, atol=1e-4)
        assert is_fast(handle)

    def test_a_saved_transformer_is_plain(self, pipe, handle, tmp_path):
        with handle.paused():
            expected = call(pipe.transformer)
        pipe.transformer.save_pretrained(tmp_path)
        loaded = FluxTransformer2DModel.from_pretrained(tmp_path)
        torch.testing.assert_close(call(loaded), expected, rtol=1e-3, atol=1e-4)

    def test_a_pickled_transformer_is_plain(self, pipe, handle, plain):
        replayed = run_flux(pipe)
        file = io.BytesIO()
        torch.save(pipe.transformer, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
        assert traces(twin) == []
        assert torch.equal(run_flux(flux(transformer=twin)), plain)
        assert torch.equal(run_flux(pipe), replayed)

    def test_a_pickled_pipeline_is_plain(self, pipe, handle, plain):
        replayed = run_flux(pipe)
        twin = pickle.loads(pickle.dumps(pipe))
        assert type(twin) is FluxPipeline
        assert not genaccel.is_enabled(twin)
        assert torch.equal(run_flux(twin), plain)
        assert torch.equal(run_flux(pipe), replayed)

    def test_a_pipeline_class_of_ones_own_is_found_again(self, plain):
        pipe = flux(OwnPipeline)
        genaccel.enable(pipe, SensitivityConfig(speedup=2.0))
        run_flux(pipe)
        assert type(pipe).__qualname__ == "OwnPipeline"
        twin = copy.deepcopy(pipe)
        assert type(twin) is OwnPipeline
        assert torch.equal(run_flux(twin), plain)


class OwnPipeline(FluxPipeline):
    """Of a user."""
