# SPDX-License-Identifier: Apache-2.0
"""The flag ``accelerate=`` on one small pipeline."""

import inspect
import json

import pytest
import torch
from diffusers import DiffusionPipeline, DiTPipeline, PixArtSigmaPipeline

import genaccel
from genaccel.hooks.binding import AlreadyEnabledError
from genaccel.pipelines.accelerate_mixin import SensitivityMixin
from genaccel.sensitivity.config import SensitivityConfig


class FlaggedDiTPipeline(SensitivityMixin, DiTPipeline):
    """A user's own class."""


@pytest.fixture
def run(tiny_dit, pixels):
    """Generate with any pipeline of the model; always from the same noise."""

    def generate(pipe, **arguments):
        return pixels(pipe(**tiny_dit.call(**arguments)))

    return generate


@pytest.fixture
def plain(tiny_dit, run):
    """What the stock pipeline makes."""
    return run(tiny_dit.build())


@pytest.fixture
def pipe(tiny_dit):
    return tiny_dit.build(FlaggedDiTPipeline)


def attached(pipe):
    """What a call could have left behind in a pipeline."""
    hooks = [
        name
        for name, module in pipe.transformer.named_modules()
        if hasattr(module, "_diffusers_hook")
    ]
    return hooks + sorted({"set_timesteps", "step"} & set(vars(pipe.scheduler)))


def test_without_the_flag_nothing_is_attached(pipe, run, plain):
    for off in ({}, {"accelerate": None}, {"accelerate": False}):
        assert torch.equal(run(pipe, **off), plain)
        assert pipe.acceleration is None
        assert attached(pipe) == []


def test_measures_then_replays_then_is_plain_again(pipe, run, plain):
    assert torch.equal(run(pipe, accelerate="soda"), plain)
    handle = pipe.acceleration
    assert handle.report()["transformer"].flop_ratio == 1
    faster = run(pipe, accelerate="soda")
    assert pipe.acceleration is handle
    assert handle.report()["transformer"].flop_ratio >= 1.96
    assert not torch.equal(faster, plain)
    assert torch.equal(run(pipe, accelerate="soda"), faster)
    assert torch.equal(run(pipe), plain)
    assert not handle.is_enabled
    assert attached(pipe) == []
    # The plan is in the cache, so that nothing is measured again.
    assert torch.equal(run(pipe, accelerate="soda"), faster)
    assert pipe.acceleration is not handle


def test_handle_is_kept_while_the_setting_is_equal(pipe, run):
    run(pipe, accelerate="soda")
    first = pipe.acceleration
    run(pipe, accelerate=SensitivityConfig(speedup=2.0))
    assert pipe.acceleration is first
    run(pipe, accelerate="soda:3")
    second = pipe.acceleration
    assert second is not first
    assert not first.is_enabled
    run(pipe, accelerate="soda:3")
    assert pipe.acceleration is second
    assert second.report()["transformer"].flop_ratio >= 2.94


def test_disable_and_a_handle_that_was_disabled(pipe, run, plain):
    pipe.disable_acceleration()
    run(pipe, accelerate="soda")
    pipe.disable_acceleration()
    assert pipe.acceleration is None
    assert attached(pipe) == []
    run(pipe, accelerate="soda")
    pipe.acceleration.disable()
    assert pipe.acceleration is None
    assert not torch.equal(run(pipe, accelerate="soda"), plain)
    assert pipe.acceleration is not None
    pipe.disable_acceleration()
    assert torch.equal(run(pipe), plain)


@pytest.mark.parametrize("flag", ["", "sodaa", "soda:", "soda:x", "soda:-2", "soda:1", "soda:0.5"])
def test_unknown_names_are_explained_in_a_sentence(pipe, run, flag):
    with pytest.raises(ValueError, match=r'"soda:3".*SensitivityConfig.*got') as error:
        run(pipe, accelerate=flag)
    assert "\n" not in str(error.value)
    assert attached(pipe) == []


@pytest.mark.parametrize("flag", [True, 2.0, {"speedup": 2.0}])
def test_other_types_are_refused(pipe, run, flag):
    with pytest.raises(TypeError, match="SensitivityConfig"):
        run(pipe, accelerate=flag)


def test_signature_and_documentation_are_the_stock_ones_and_the_flag():
    stock = inspect.signature(DiTPipeline.__call__)
    signature = inspect.signature(FlaggedDiTPipeline.__call__)
    flag = signature.parameters["accelerate"]
    assert flag.kind is inspect.Parameter.KEYWORD_ONLY
    assert flag.default is None
    assert {n: p for n, p in signature.parameters.items() if p is not flag} == dict(
        stock.parameters
    )
    lines = FlaggedDiTPipeline.__call__.__doc__.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.strip() == "Args:")
    assert lines[heading + 1].strip().startswith("accelerate (")
    assert [line for i, line in enumerate(lines) if not heading < i < heading + 4] == (
        DiTPipeline.__call__.__doc__.splitlines()
    )


def test_signature_with_further_keywords_is_valid():
    class Flagged(SensitivityMixin, PixArtSigmaPipeline):
        pass

    assert list(inspect.signature(Flagged.__call__).parameters)[-2:] == ["accelerate", "kwargs"]


def test_classes_below_inherit_and_may_override(tiny_dit, run, plain):
    class Child(FlaggedDiTPipeline):
        pass

    class Own(SensitivityMixin, DiTPipeline):
        def __call__(self, *args, **kwargs):
            """Of a user."""
            return super().__call__(*args, **kwargs)

    assert Own.__call__.__doc__ == "Of a user."
    for pipeline_class in (Child, Own):
        pipe = tiny_dit.build(pipeline_class)
        run(pipe, accelerate="soda:3")
        assert pipe.acceleration.plans["transformer"] is not None
        assert torch.equal(run(pipe), plain)


def test_two_pipelines_are_independent(tiny_dit, pipe, run, plain):
    other = tiny_dit.build(FlaggedDiTPipeline, seed=7)
    plain_other = run(other)
    run(pipe, accelerate="soda")
    assert torch.equal(run(other), plain_other)
    faster = run(pipe, accelerate="soda")
    run(other, accelerate="soda:3")
    assert torch.equal(run(pipe, accelerate="soda"), faster)
    other.disable_acceleration()
    assert torch.equal(run(pipe, accelerate="soda"), faster)
    assert torch.equal(run(other), plain_other)


def test_exception_in_the_middle_then_a_clean_call(pipe, run, plain):
    run(pipe, accelerate="soda")
    faster = run(pipe, accelerate="soda")
    step, calls = pipe.scheduler.step, []

    def failing(*args, **kwargs):
        calls.append(None)
        if len(calls) == 4:
            raise InterruptedError
        return step(*args, **kwargs)

    pipe.scheduler.step = failing
    with pytest.raises(InterruptedError):
        run(pipe, accelerate="soda")
    pipe.scheduler.step = step
    assert torch.equal(run(pipe, accelerate="soda"), faster)
    assert torch.equal(run(pipe), plain)


def test_another_transformer_is_noticed(tiny_dit, pipe, run):
    run(pipe, accelerate="soda")
    old = pipe.transformer
    pipe.transformer = tiny_dit.build(seed=7).transformer
    plain = run(pipe)
    run(pipe, accelerate="soda")
    pipe.transformer, new = old, pipe.transformer
    run(pipe, accelerate="soda")
    pipe.transformer = new
    run(pipe, accelerate="soda")
    assert pipe.acceleration.attachments["transformer"].model is new
    assert torch.equal(run(pipe), plain)


def test_from_pipe_shares_the_model_and_not_the_flag(tiny_dit, pipe, run, plain):
    run(pipe, accelerate="soda")
    faster = run(pipe, accelerate="soda")
    twin = FlaggedDiTPipeline.from_pipe(pipe)
    assert twin.transformer is pipe.transformer
    assert twin.acceleration is None
    assert torch.equal(run(twin), plain)
    assert torch.equal(run(pipe, accelerate="soda"), faster)
    # Both may be accelerated at once, each by its own flag.
    assert torch.equal(run(twin, accelerate="soda"), faster)
    assert torch.equal(run(pipe, accelerate="soda:3"), plain)
    assert torch.equal(run(twin, accelerate="soda"), faster)
    assert torch.equal(run(pipe), plain)
    assert pipe.acceleration is None
    assert torch.equal(run(twin, accelerate="soda"), faster)
    twin.disable_acceleration()
    assert attached(twin) == []
    stock = DiTPipeline.from_pipe(pipe)
    stock.set_progress_bar_config(disable=True)
    assert torch.equal(run(stock), plain)
    assert torch.equal(run(FlaggedDiTPipeline.from_pipe(stock), accelerate="soda"), faster)


def test_what_enable_attached_is_not_the_flags(pipe, run, plain):
    handle = genaccel.enable(pipe, SensitivityConfig(speedup=2.0))
    with pytest.raises(AlreadyEnabledError, match="disable"):
        run(pipe, accelerate="soda")
    run(pipe)
    assert not torch.equal(run(pipe), plain)
    assert handle.is_enabled
    handle.disable()
    assert torch.equal(run(pipe), plain)


def test_saved_folder_needs_no_genaccel(pipe, run, plain, tmp_path):
    run(pipe, accelerate="soda")
    faster = run(pipe, accelerate="soda")
    pipe.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "DiTPipeline"
    stock = DiffusionPipeline.from_pretrained(tmp_path / "model")
    assert type(stock) is DiTPipeline
    stock.set_progress_bar_config(disable=True)
    assert torch.equal(run(stock), plain)
    again = FlaggedDiTPipeline.from_pretrained(tmp_path / "model")
    assert type(again) is FlaggedDiTPipeline
    assert torch.equal(run(again), plain)
    assert torch.equal(run(again, accelerate="soda"), faster)
    again.save_pretrained(tmp_path / "again")
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "again")) is DiTPipeline


def test_plans_beside_a_saved_model_are_found(pipe, run, tmp_path, monkeypatch):
    run(pipe, accelerate="soda")
    faster = run(pipe, accelerate="soda")
    pipe.save_pretrained(tmp_path / "model")
    pipe.acceleration.save_pretrained(tmp_path / "model" / "sensitivity")
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path / "empty"))
    again = FlaggedDiTPipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(run(again, accelerate="soda"), faster)


def test_config_says_where_plans_are_kept(pipe, run, tmp_path):
    config = SensitivityConfig(speedup=2.0, cache_dir=tmp_path / "plans")
    run(pipe, accelerate=config)
    assert len(list((tmp_path / "plans").iterdir())) == 1
    assert not (tmp_path / "cache").exists()
