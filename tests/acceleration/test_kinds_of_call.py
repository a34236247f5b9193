# SPDX-License-Identifier: Apache-2.0
"""Segments belong to a kind of call: what is built otherwise is learned anew or computed in full, and never silently wrong."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxControlNetPipeline, StableDiffusion3ControlNetPipeline

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import (
    control_image,
    flux,
    flux_controlnet,
    is_fast,
    problems,
    quiet,
    report,
    run_flux,
    run_sd3,
    sd3,
    sd3_controlnet,
)

import genaccel
from genaccel import SensitivityConfig

# Of diffusers' own ControlNets.
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated")


@pytest.fixture(params=["output", "segment", "module"])
def config(request):
    return SensitivityConfig(speedup=2.0, granularity=request.param)


def off(image, plain):
    """How far an image is from the plain one."""
    return float((image - plain).norm() / plain.norm())


def assert_close_enough(image, plain):
    """A forecast run, and not one whose residuals were added twice."""
    assert torch.isfinite(image).all()
    assert off(image, plain) < 1.0


class TestControlNet:
    @pytest.fixture
    def pipe(self):
        return flux(FluxControlNetPipeline, controlnet=flux_controlnet())

    def test_residuals_are_not_counted_twice(self, pipe, config):
        given = {"control_image": control_image(), "controlnet_conditioning_scale": 2.0}
        plain = run_flux(pipe, **given)
        handle = genaccel.enable(pipe, config)
        assert torch.equal(run_flux(pipe, **given), plain)
        image = run_flux(pipe, **given)
        assert is_fast(handle)
        assert_close_enough(image, plain)
        assert torch.equal(run_flux(pipe, **given), image)

    def test_a_plain_pipeline_that_is_enabled_and_a_controlled_one_that_is_not(self, pipe, config):
        text_only = flux(transformer=pipe.transformer)
        given = {"control_image": control_image()}
        plain = run_flux(pipe, **given)
        genaccel.enable(text_only, config)
        for _ in range(2):
            run_flux(text_only)
            assert torch.equal(run_flux(pipe, **given), plain)

    @pytest.mark.parametrize(
        "guidance", [{"control_guidance_end": 0.5}, {"control_guidance_start": 0.4}], ids=str
    )
    def test_control_for_a_part_of_the_run(self, pipe, config, guidance):
        given = {"control_image": control_image(), **guidance}
        plain = run_flux(pipe, **given)
        handle = genaccel.enable(pipe, config)
        assert torch.equal(run_flux(pipe, **given), plain)
        image = run_flux(pipe, **given)
        assert torch.isfinite(image).all()
        assert torch.equal(run_flux(pipe, **given), image)
        assert is_fast(handle) or report(handle).notes

    def test_of_stable_diffusion_3(self, config):
        pipe = sd3(StableDiffusion3ControlNetPipeline, controlnet=sd3_controlnet())
        image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(9))
        given = {"control_image": image, "controlnet_conditioning_scale": 0.5}
        plain = run_sd3(pipe, **given)
        handle = genaccel.enable(pipe, config)
        assert torch.equal(run_sd3(pipe, **given), plain)
        image = run_sd3(pipe, **given)
        assert torch.isfinite(image).all()
        assert is_fast(handle)


class TestSkippedLayers:
    @pytest.mark.parametrize("layers", [[0], [2, 3], [5]], ids=str)
    def test_skip_layer_guidance(self, config, layers, caplog):
        pipe = sd3()
        given = {
            "skip_guidance_layers": layers,
            "skip_layer_guidance_stop": 0.5,
            "skip_layer_guidance_start": 0.0,
        }
        plain = run_sd3(pipe, **given)
        handle = genaccel.enable(pipe, config)
        assert torch.equal(run_sd3(pipe, **given), plain)
        image = run_sd3(pipe, **given)
        assert torch.isfinite(image).all()
        assert is_fast(handle) or report(handle).notes
        assert torch.equal(run_sd3(pipe, **given), image)
        assert problems(caplog) == []
        handle.disable()
        assert torch.equal(run_sd3(pipe, **given), plain)

    def test_with_and_without_by_turns(self, config):
        pipe = sd3()
        skipping = {"skip_guidance_layers": [2], "skip_layer_guidance_start": 0.0}
        plain = [run_sd3(pipe), run_sd3(pipe, **skipping)]
        genaccel.enable(pipe, config)
        run_sd3(pipe)
        fast = run_sd3(pipe)
        run_sd3(pipe, **skipping)
        of_skipping = run_sd3(pipe, **skipping)
        assert torch.equal(run_sd3(pipe), fast)
        assert torch.equal(run_sd3(pipe, **skipping), of_skipping)
        assert not torch.equal(fast, plain[0])


class TestSurprises:
    """The same arguments, and other blocks."""

    @pytest.fixture
    def config(self):
        return SensitivityConfig(speedup=2.0, granularity="segment")

    def test_blocks_that_are_taken_out_between_runs(self, config):
        pipe = flux()
        handle = genaccel.enable(pipe, config)
        run_flux(pipe)
        run_flux(pipe)
        with torch.no_grad():
            taken = pipe.transformer.transformer_blocks.pop(1)
        with handle.paused():
            plain = run_flux(pipe)
        image = run_flux(pipe)
        assert torch.equal(image, plain) or is_fast(handle)
        assert torch.isfinite(image).all()
        assert taken is not None
        for _ in range(3):
            assert torch.isfinite(run_flux(pipe)).all()

    def test_residuals_that_come_without_an_argument_are_noticed(self, config):
        """Someone changes the states between two blocks, by a hook of their own."""
        pipe = flux()
        handle = genaccel.enable(pipe, config)
        run_flux(pipe)
        run_flux(pipe)
        block = pipe.transformer.transformer_blocks[1]
        hook = block.register_forward_hook(lambda m, a, out: (out[0], out[1] + 0.05))
        with handle.paused():
            plain = run_flux(pipe)
        images = [run_flux(pipe) for _ in range(3)]
        assert all(torch.isfinite(image).all() for image in images)
        assert all(off(image, plain) < 1.0 for image in images)
        hook.remove()
        handle.disable()

    def test_blocks_that_come_and_go_in_every_run_are_computed_in_full(self, config):
        pipe = flux()
        handle = genaccel.enable(pipe, config)
        run_flux(pipe)
        blocks = pipe.transformer.transformer_blocks
        whole = list(blocks)
        engine = handle.attachments["transformer"]
        images, plains = [], []
        for turn in range(8):
            kept = whole if turn % 2 else whole[:2]
            pipe.transformer.transformer_blocks = torch.nn.ModuleList(kept)
            with handle.paused():
                plains.append(run_flux(pipe))
            images.append(run_flux(pipe))
        assert all(torch.isfinite(image).all() for image in images)
        assert torch.equal(images[-1], plains[-1]) or is_fast(handle)
        assert engine.bytes_held == 0


class TestSizesWithinARun:
    def test_a_batch_that_changes_from_run_to_run(self, config):
        pipe = flux()
        handle = genaccel.enable(pipe, config)
        for count in (1, 2, 1, 2):
            given = {"num_images_per_prompt": count}
            with handle.paused():
                plain = run_flux(pipe, **given)
            image = run_flux(pipe, **given)
            assert image.shape == plain.shape
            assert torch.isfinite(image).all()

    def test_true_guidance_that_comes_in_calls_of_its_own(self, config):
        pipe = flux()
        text = torch.Generator().manual_seed(8)
        given = {
            "true_cfg_scale": 2.0,
            "negative_prompt_embeds": torch.randn(1, 6, 32, generator=text),
            "negative_pooled_prompt_embeds": torch.randn(1, 32, generator=text),
        }
        plain = run_flux(pipe, **given)
        handle = genaccel.enable(pipe, config)
        assert torch.equal(run_flux(pipe, **given), plain)
        image = run_flux(pipe, **given)
        assert is_fast(handle)
        assert report(handle).calls == 20
        assert_close_enough(image, plain)
        quiet(pipe)
