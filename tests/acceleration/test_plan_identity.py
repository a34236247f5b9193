# SPDX-License-Identifier: Apache-2.0
"""A plan belongs to all that it was measured for, and to nothing else."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

sys.path.insert(0, str(Path(__file__).parent))
from tiny_runs import (
    FLUX,
    control_image,
    flux,
    flux_controlnet,
    flux_transformer,
    is_fast,
    missing,
    quiet,
    report,
    run_flux,
    run_wan,
    wan,
    wan_transformer,
)

import genaccel
from genaccel import SensitivityConfig
from genaccel.sensitivity.plans.fingerprint import config_digest
from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary

SODA = SensitivityConfig(speedup=2.0)


def plans_in(cache):
    return len(list(cache.iterdir())) if cache.exists() else 0


def assert_another_run(run, handle, plain, name="transformer"):
    """It is measured by itself, in full, and then follows a plan of its own."""
    assert torch.equal(run(), plain)
    assert report(handle, name).plan == "none yet: computed in full and measured"
    run()
    assert is_fast(handle, name)
    assert report(handle, name).flop_ratio >= 1.9


def plain_of(handle, run):
    with handle.paused():
        return run()


SIGMAS = np.concatenate([np.linspace(1, 0.98, 8), [0.5, 0.1]]).tolist()


class TestSchedules:
    @pytest.mark.parametrize(
        "change",
        [
            {"steps": 12},
            {"sigmas": SIGMAS},
            {"sigmas": np.linspace(1.0, 0.2, 10).tolist()},
            {"size": 24},
        ],
        ids=["steps", "sigmas", "evenly spaced sigmas", "size"],
    )
    def test_another_run_is_measured_by_itself(self, pipe, change, cache):
        handle = genaccel.enable(pipe, SODA)

        def run():
            return run_flux(pipe, **change)

        plain = plain_of(handle, run)
        run_flux(pipe)
        assert plans_in(cache) == 1
        assert_another_run(run, handle, plain)
        assert plans_in(cache) == 2
        run_flux(pipe)
        assert is_fast(handle)  # the first is still there
        assert plans_in(cache) == 2

    @pytest.mark.parametrize(
        "change", [{"seed": 9}, {"prompt": 11}, {"joint_attention_kwargs": {}}]
    )
    def test_what_is_drawn_does_not_matter(self, pipe, change, cache):
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        run_flux(pipe, **change)
        assert is_fast(handle)
        assert plans_in(cache) == 1

    def test_default_sigmas_said_aloud_are_the_default_ones(self, pipe, cache):
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        run_flux(pipe, sigmas=np.linspace(1.0, 0.1, 10).tolist())
        assert is_fast(handle)
        assert plans_in(cache) == 1

    @pytest.mark.parametrize("changes", [{"shift": 3.0}, {"invert_sigmas": True}], ids=str)
    def test_another_config_of_the_scheduler_is_another_run(self, pipe, changes, cache):
        genaccel.enable(pipe, SODA)
        run_flux(pipe)
        genaccel.disable(pipe)
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
            pipe.scheduler.config, **changes
        )
        plain = run_flux(pipe)
        handle = genaccel.enable(pipe, SODA)
        assert_another_run(lambda: run_flux(pipe), handle, plain)
        assert plans_in(cache) == 2

    def test_a_scheduler_that_is_exchanged_between_runs_is_noticed(self, pipe, cache):
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        before = pipe.scheduler
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        plain = plain_of(handle, lambda: run_flux(pipe))
        assert_another_run(lambda: run_flux(pipe), handle, plain)
        assert not {"step", "set_timesteps"} & set(vars(before))
        pipe.scheduler = before
        run_flux(pipe)
        assert is_fast(handle)

    def test_a_run_from_an_image_is_another_run_for_each_strength(self, pipe, cache):
        of_image = quiet(FluxImg2ImgPipeline.from_pipe(pipe))
        image = control_image()

        def run(strength):
            return run_flux(of_image, image=image, strength=strength)

        with genaccel.enable(pipe, SODA) as handle:
            run_flux(pipe)
            run_flux(pipe)
            assert is_fast(handle)
        with genaccel.enable(of_image, SODA) as handle:
            for strength in (0.6, 0.8):
                plain = plain_of(handle, lambda: run(strength))  # noqa: B023
                assert_another_run(lambda: run(strength), handle, plain)  # noqa: B023
                assert report(handle).num_steps == round(10 * strength)
        assert plans_in(cache) == 3
        # And the other way round.
        with genaccel.enable(pipe, SODA) as handle:
            run_flux(pipe)
            assert is_fast(handle)
            assert report(handle).flop_ratio >= 1.9

    def test_as_many_steps_from_elsewhere_in_the_schedule_are_another_run(self, pipe, cache):
        of_image = quiet(FluxImg2ImgPipeline.from_pipe(pipe))
        with genaccel.enable(of_image, SODA) as handle:
            run_flux(of_image, image=control_image(), strength=0.5, steps=20)
            assert report(handle).num_steps == 10
        plain = run_flux(pipe)
        with genaccel.enable(pipe, SODA) as handle:
            assert_another_run(lambda: run_flux(pipe), handle, plain)

    def test_two_transformers_of_one_class_have_plans_of_their_own(self, cache):
        pipe = wan(transformer_2=wan_transformer(2), boundary_ratio=0.875)
        handle = genaccel.enable(pipe, SODA)
        run_wan(pipe, steps=16)
        assert plans_in(cache) == 2
        run_wan(pipe, steps=16)
        assert is_fast(handle, "transformer_2")
        # Another part of the schedule for each.
        pipe.register_to_config(boundary_ratio=0.7)
        plain = plain_of(handle, lambda: run_wan(pipe, steps=16))
        assert torch.equal(run_wan(pipe, steps=16), plain)
        run_wan(pipe, steps=16)
        assert all(is_fast(handle, name) for name in ("transformer", "transformer_2"))


def lora_of(transformer, name, seed, rank=4):
    """Adds an adapter of random weights."""
    from peft import LoraConfig

    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"
    )
    transformer.add_adapter(config, adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in transformer.named_parameters():
            if name in key:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    transformer.eval()


class TestAdapters:
    @pytest.fixture(autouse=True)
    def _peft(self):
        pytest.importorskip("peft")

    @pytest.fixture
    def style(self, pipe):
        """With an adapter, whose plan was measured."""
        lora_of(pipe.transformer, "style", 7)
        pipe.transformer.set_adapters(["style"], [1.0])
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        run_flux(pipe)
        assert is_fast(handle)
        return handle

    def assert_another(self, pipe, handle):
        plain = plain_of(handle, lambda: run_flux(pipe))
        assert_another_run(lambda: run_flux(pipe), handle, plain)

    def test_one_that_comes_is_another_run(self, pipe):
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        lora_of(pipe.transformer, "style", 7)
        self.assert_another(pipe, handle)

    def test_another_scale_is_another_run(self, pipe, style):
        pipe.transformer.set_adapters(["style"], [0.5])
        self.assert_another(pipe, style)
        pipe.transformer.set_adapters(["style"], [1.0])
        run_flux(pipe)
        assert is_fast(style)

    def test_one_that_is_disabled_is_another_run(self, pipe, style):
        pipe.transformer.disable_adapters()
        self.assert_another(pipe, style)
        pipe.transformer.enable_adapters()
        run_flux(pipe)
        assert is_fast(style)

    def test_one_that_is_deleted_is_another_run(self, pipe, style):
        pipe.transformer.delete_adapters("style")
        self.assert_another(pipe, style)

    def test_one_that_is_fused_is_another_run(self, pipe, style):
        pipe.transformer.fuse_lora()
        self.assert_another(pipe, style)
        pipe.transformer.unfuse_lora()

    def test_one_that_is_fused_and_unloaded_is_another_run(self, pipe):
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        lora_of(pipe.transformer, "style", 7)
        pipe.transformer.fuse_lora()
        pipe.transformer.unload_lora()
        self.assert_another(pipe, handle)

    @pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
    def test_a_second_one_is_another_run(self, pipe, style):
        lora_of(pipe.transformer, "oil", 8)
        pipe.transformer.set_adapters(["style", "oil"], [1.0, 1.0])
        self.assert_another(pipe, style)

    def test_another_one_of_the_same_name_is_another_run(self, pipe, style):
        # By content: everybody calls theirs "default_0".
        pipe.transformer.delete_adapters("style")
        lora_of(pipe.transformer, "style", 99)
        pipe.transformer.set_adapters(["style"], [1.0])
        self.assert_another(pipe, style)

    def test_the_same_one_loaded_again_is_the_same_run(self, pipe, style, cache):
        pipe.transformer.delete_adapters("style")
        lora_of(pipe.transformer, "style", 7)
        pipe.transformer.set_adapters(["style"], [1.0])
        run_flux(pipe)
        assert is_fast(style)
        assert plans_in(cache) == 1

    def test_scales_of_a_call_are_those_of_the_run(self, pipe, style, cache):
        """As ``joint_attention_kwargs={"scale": ...}`` sets them for one call."""

        def run():
            return run_flux(pipe, joint_attention_kwargs={"scale": 0.3})

        plain = plain_of(style, run)
        assert_another_run(run, style, plain)


class TestWeights:
    def test_other_weights_of_the_same_config_are_another_run(self, pipe, cache):
        with genaccel.enable(pipe, SODA):
            run_flux(pipe)
        other = flux(transformer=flux_transformer(seed=99))
        plain = run_flux(other)
        with genaccel.enable(other, SODA) as handle:
            assert_another_run(lambda: run_flux(other), handle, plain)
        assert plans_in(cache) == 2

    @pytest.mark.parametrize(
        "change",
        [
            lambda p: p.mul_(1.5),
            lambda p: p.add_(0.1),
            lambda p: p.copy_(p.flip(0)),
            lambda p: p.data.copy_(p.data * -1),
        ],
        ids=["scaled", "shifted", "reordered", "through .data"],
    )
    def test_weights_that_are_changed_in_place_are_another_run(self, pipe, change):
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        with torch.no_grad():
            for name, parameter in pipe.transformer.named_parameters():
                if name.endswith("to_q.weight"):
                    change(parameter)
        plain = plain_of(handle, lambda: run_flux(pipe))
        assert_another_run(lambda: run_flux(pipe), handle, plain)

    def test_weights_that_are_loaded_into_the_model_are_another_run(self, pipe):
        handle = genaccel.enable(pipe, SODA)
        run_flux(pipe)
        pipe.transformer.load_state_dict(flux_transformer(seed=99).state_dict())
        plain = plain_of(handle, lambda: run_flux(pipe))
        assert_another_run(lambda: run_flux(pipe), handle, plain)

    def test_equal_weights_elsewhere_are_the_same_run(self, pipe, cache):
        with genaccel.enable(pipe, SODA):
            run_flux(pipe)
        other = flux()
        other.transformer = other.transformer.to(memory_format=torch.contiguous_format)
        with genaccel.enable(other, SODA) as handle:
            run_flux(other)
            assert is_fast(handle)
        assert plans_in(cache) == 1

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_rounded_weights_follow_the_plan_beside_the_model(self, dtype, tmp_path):
        made = flux()
        config = SensitivityConfig(speedup=2.0, cache_dir=tmp_path / "elsewhere")
        made.save_pretrained(tmp_path / "model")
        with genaccel.enable(made, config) as handle:
            run_flux(made)
            plan = handle.plans["transformer"]
        library = PlanLibrary(tmp_path / "model" / "sensitivity")
        library.add(plan, PlanEntry("two", "transformer", 1 / plan.flop_fraction))
        loaded = quiet(
            FluxPipeline.from_pretrained(tmp_path / "model", dtype=dtype, **missing("", "_2"))
        )
        with genaccel.enable(loaded, SODA) as handle:
            loaded(
                prompt_embeds=torch.randn(1, 6, 32, dtype=dtype),
                pooled_prompt_embeds=torch.randn(1, 32, dtype=dtype),
                num_inference_steps=10,
                height=16,
                width=16,
                guidance_scale=1.0,
                output_type="latent",
            )
            assert is_fast(handle)
            assert report(handle).plan.startswith("beside the model (two)")


# Of diffusers' own ControlNet.
@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated")
class TestControl:
    def test_a_controlnet_is_another_run(self, pipe, cache):
        with genaccel.enable(pipe, SODA):
            run_flux(pipe)
        controlled = quiet(FluxControlNetPipeline.from_pipe(pipe, controlnet=flux_controlnet()))

        def run():
            return run_flux(controlled, control_image=control_image())

        plain = run()
        with genaccel.enable(controlled, SODA) as handle:
            assert_another_run(run, handle, plain)
        assert plans_in(cache) == 2
        with genaccel.enable(pipe, SODA) as handle:
            run_flux(pipe)
            assert is_fast(handle)

    def test_a_mask_is_no_reason_to_use_another_plan_wrongly(self, pipe):
        painting = quiet(FluxInpaintPipeline.from_pipe(pipe))
        image, mask = control_image(), torch.ones(1, 1, 16, 16)
        mask[..., :8] = 0

        def run():
            return run_flux(painting, image=image, mask_image=mask, strength=1.0)

        with genaccel.enable(pipe, SODA):
            run_flux(pipe)
        plain = run()
        with genaccel.enable(painting, SODA) as handle:
            first = run()
            assert torch.equal(first, plain) or is_fast(handle)
            run()
            assert is_fast(handle)


class TestConfigs:
    def test_keys_that_a_later_diffusers_adds_at_their_defaults_do_not_count(self):
        model = flux_transformer()

        class Later(FluxTransformer2DModel):
            """Of a later version."""

            def __init__(self, *args, new_option=False, **kwargs):
                super().__init__(*args, **kwargs)

        digest = config_digest(dict(model.config), FluxTransformer2DModel)
        later = {**model.config, "new_option": False}
        assert digest != config_digest(later, FluxTransformer2DModel)

        def with_option(self, *args, new_option=False, **kwargs):
            pass

        Later.__init__ = with_option
        own = config_digest({"new_option": False}, Later)
        assert own == config_digest({}, Later)
        assert own != config_digest({"new_option": True}, Later)

    def test_a_model_whose_config_says_the_defaults_is_the_same_model(self, pipe, cache):
        """``config.json`` of an older version names fewer keys than that of this one."""
        with genaccel.enable(pipe, SODA):
            run_flux(pipe)
        other = flux()
        config = dict(other.transformer.config)
        shortened = {k: v for k, v in config.items() if k in (*FLUX, "guidance_embeds")}
        assert len(shortened) < len(config)
        other.transformer._internal_dict = type(other.transformer.config)(shortened)
        with genaccel.enable(other, SODA) as handle:
            run_flux(other)
            assert is_fast(handle)
        assert plans_in(cache) == 1

    def test_another_config_of_the_model_is_another_run(self, pipe, cache):
        with genaccel.enable(pipe, SODA):
            run_flux(pipe)
        other = flux(transformer=flux_transformer(num_layers=2))
        plain = run_flux(other)
        with genaccel.enable(other, SODA) as handle:
            assert_another_run(lambda: run_flux(other), handle, plain)

    @pytest.mark.parametrize(
        "values",
        [{"max_interval": 5}, {"granularity": "segment"}, {"metric": "cosine"}, {"speedup": 3.0}],
        ids=str,
    )
    def test_what_was_asked_for_belongs_to_a_plan(self, pipe, values, cache):
        with genaccel.enable(pipe, SODA):
            run_flux(pipe)
        plain = run_flux(pipe)
        with genaccel.enable(pipe, SODA.changed(**values)) as handle:
            assert torch.equal(run_flux(pipe), plain)
            run_flux(pipe)
            assert is_fast(handle)
        assert plans_in(cache) == 2

    def test_where_and_how_it_is_kept_does_not(self, pipe, cache):
        with genaccel.enable(pipe, SODA):
            run_flux(pipe)
        for values in ({"cache_megabytes": 50.0}, {"first_run": "plan"}):
            with genaccel.enable(pipe, dataclasses.replace(SODA, **values)) as handle:
                run_flux(pipe)
                assert is_fast(handle)
                assert report(handle).plan.startswith("from the cache (")
        assert plans_in(cache) == 1
