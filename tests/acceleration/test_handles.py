# SPDX-License-Identifier: Apache-2.0
"""Handles can be found again, and several pipelines may be enabled on one model."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    FluxImg2ImgPipeline,
    FluxPipeline,
)

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import flux, is_fast, quiet, report, run_flux, traces

import genaccel
from genaccel import SensitivityConfig
from genaccel.hooks.binding import AlreadyEnabledError

SODA = SensitivityConfig(speedup=2.0)


class TestLostHandles:
    def test_a_pipeline_can_be_asked_and_disabled(self, pipe, plain, config):
        assert not genaccel.is_enabled(pipe)
        genaccel.disable(pipe)  # nothing to do
        genaccel.enable(pipe, config)
        run_flux(pipe)
        assert genaccel.is_enabled(pipe)
        assert not torch.equal(run_flux(pipe), plain)
        genaccel.disable(pipe)
        assert not genaccel.is_enabled(pipe)
        assert torch.equal(run_flux(pipe), plain)
        genaccel.enable(pipe, config)
        assert not torch.equal(run_flux(pipe), plain)  # the plan was kept

    def test_a_bare_model_too(self, pipe, plain, config):
        genaccel.enable(pipe.transformer, config, num_inference_steps=10)
        assert genaccel.is_enabled(pipe.transformer)
        assert not genaccel.is_enabled(pipe)
        run_flux(pipe)
        assert not torch.equal(run_flux(pipe), plain)
        genaccel.disable(pipe.transformer)
        assert torch.equal(run_flux(pipe), plain)

    def test_a_handle_that_was_disabled_disables_nothing_of_the_next_one(self, pipe, plain, config):
        first = genaccel.enable(pipe, config)
        run_flux(pipe)
        genaccel.disable(pipe)
        assert not first.is_enabled
        second = genaccel.enable(pipe, config)
        first.disable()
        assert second.is_enabled
        assert genaccel.is_enabled(pipe)
        assert not torch.equal(run_flux(pipe), plain)

    def test_a_second_enable_is_refused_and_the_first_stays(self, pipe, plain, config):
        handle = genaccel.enable(pipe, config)
        run_flux(pipe)
        replayed = run_flux(pipe)
        for again in (config, SensitivityConfig(speedup=3.0)):
            with pytest.raises(AlreadyEnabledError, match=r"FluxPipeline is accelerated already"):
                genaccel.enable(pipe, again)
        with pytest.raises(ValueError, match=r"call disable\(\) on its handle first"):
            genaccel.enable(pipe, config)
        assert handle.is_enabled
        assert torch.equal(run_flux(pipe), replayed)
        assert report(handle).calls == 10
        handle.disable()
        assert type(pipe) is FluxPipeline
        assert torch.equal(run_flux(pipe), plain)
        assert traces(pipe.transformer) == []


class TestTwoEnabledPipelines:
    """On one transformer, each with its own plan."""

    @pytest.fixture
    def two(self, pipe):
        return pipe, flux(transformer=pipe.transformer)

    def alone(self, config):
        """What a pipeline makes that has the transformer for itself."""
        made = flux()
        with genaccel.enable(made, config):
            run_flux(made)
            return run_flux(made)

    def test_each_follows_its_own_plan(self, two, plain, config):
        faster = config.changed(speedup=3.0)
        expected = [self.alone(config), self.alone(faster)]
        handles = [genaccel.enable(p, c) for p, c in zip(two, (config, faster), strict=True)]
        for p in two:
            run_flux(p)
        for _ in range(2):
            for p, image in zip(two, expected, strict=True):
                assert torch.equal(run_flux(p), image)
        ratios = [report(handle).flop_ratio for handle in handles]
        assert ratios[0] < ratios[1]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_one_outlives_the_other(self, two, plain, config, order):
        handles = [genaccel.enable(p, config) for p in two]
        for p in two:
            run_flux(p)
        replayed = run_flux(two[0])
        first, second = order
        handles[first].disable()
        assert torch.equal(run_flux(two[first]), plain)
        assert torch.equal(run_flux(two[second]), replayed)
        handles[second].disable()
        for p in two:
            assert torch.equal(run_flux(p), plain)
        assert traces(two[0].transformer) == []

    def test_one_within_a_callback_of_the_other(self, two, config):
        first, second = two
        faster = config.changed(speedup=3.0)
        expected = [self.alone(config), self.alone(faster)]
        genaccel.enable(first, config)
        genaccel.enable(second, faster)
        run_flux(first)
        run_flux(second)
        seen = []

        def nested(pipe, index, timestep, values):
            if index in (0, 3, 6):
                seen.append(torch.equal(run_flux(second), expected[1]))
            return values

        assert torch.equal(run_flux(first, callback_on_step_end=nested), expected[0])
        assert seen == [True] * 3

    def test_one_of_another_class(self, two, plain, config):
        first, _ = two
        second = quiet(FluxImg2ImgPipeline.from_pipe(first))
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        given = {"image": image, "strength": 0.8}
        plain_of_image = run_flux(second, **given)
        genaccel.enable(first, config)
        of_second = genaccel.enable(second, config)
        assert torch.equal(run_flux(first), plain)
        assert torch.equal(run_flux(second, **given), plain_of_image)
        assert not torch.equal(run_flux(first), plain)
        assert not torch.equal(run_flux(second, **given), plain_of_image)
        assert report(of_second).num_steps == 8
        genaccel.disable(first)
        assert torch.equal(run_flux(first), plain)
        assert is_fast(of_second)
