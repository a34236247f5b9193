# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from typing import Any

import pytest

from genaccel.sensitivity.plans.fingerprint import Fingerprint, config_digest


def _fingerprint(**changes: Any) -> Fingerprint:
    values = {
        "model_class": "DiTTransformer2DModel",
        "model_config_digest": config_digest({"num_layers": 12}),
        "scheduler_class": "DDIMScheduler",
        "scheduler_config_digest": config_digest({"beta_end": 0.02}),
        "num_inference_steps": 50,
        "height": 256,
        "width": 320,
        "guidance_scale": 1.5,
        "adapters": ("winter", "oil"),
        "segments": "6",
        "start_step": 0,
        "schedule_digest": "8",
        "weights": (0.25, -1.0),
        "weights_dtype": "bfloat16",
        "control": "",
    }
    return Fingerprint(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"adapters": ["oil", "winter"]}, None),
        (
            {"model_class": "FluxTransformer2DModel", "model_config_digest": "0"},
            "The plan was made for the model DiTTransformer2DModel, this one is FluxTransformer2DModel.",
        ),
        (
            {"model_config_digest": "0"},
            "The plan was made for a DiTTransformer2DModel of another configuration than this model's.",
        ),
        (
            {"scheduler_config_digest": "0"},
            "The plan was made for a DDIMScheduler of another configuration than this scheduler's.",
        ),
        (
            {"num_inference_steps": 20},
            "The plan was made for 50 inference steps, this run has 20.",
        ),
        (
            {"height": 512},
            "The plan was made for model inputs of 256 x 320, this run has 512 x 320.",
        ),
        (
            {"guidance_scale": None},
            "The plan was made for a guidance scale of 1.5, this run has no guidance.",
        ),
        (
            {"guidance_scale": 4},
            "The plan was made for a guidance scale of 1.5, this run has a guidance scale of 4.",
        ),
        ({"adapters": ()}, "The plan was made with LoRA oil, winter, this run has no LoRA."),
        (
            {"num_inference_steps": 20, "adapters": ("oil",)},
            (
                "The plan was made for 50 inference steps, this run has 20. "
                "The plan was made with LoRA oil, winter, this run has LoRA oil."
            ),
        ),
    ],
)
def test_each_difference_is_a_sentence(changes: dict[str, Any], sentence: str | None) -> None:
    mine, other = _fingerprint(), _fingerprint(**changes)
    assert mine.explain_mismatch(other) == sentence
    assert (mine == other) == (sentence is None)


def test_no_difference_is_left_unexplained() -> None:
    mine = _fingerprint()
    for field in dataclasses.fields(Fingerprint):
        value = getattr(mine, field.name)
        change = {str: "x", int: 7, float: 7.0, tuple: ("x",)}[type(value)]
        if field.name == "weights":
            change = (0.5, -1.0)
        other = dataclasses.replace(mine, **{field.name: change})
        # The one says only how close weights must be, the other is for plans of version 1.
        if field.name in ("weights_dtype", "old_digests"):
            assert mine.differences(other) == []
            continue
        assert mine.differences(other) == [field.name]
        assert mine.explain_mismatch(other)


@pytest.mark.parametrize(
    "name", ["segments", "start_step", "schedule_digest", "weights", "weights_dtype", "control"]
)
def test_what_an_older_plan_does_not_say_does_not_differ(name: str) -> None:
    mine = _fingerprint()
    older = dataclasses.replace(mine, **{name: None})
    assert mine.differences(older) == older.differences(mine) == []


def test_weights_of_another_dtype_may_be_rounded_and_no_more() -> None:
    mine = _fingerprint()
    for dtype, away, differs in (
        ("bfloat16", 1e-6, False),  # summed in another order
        ("bfloat16", 1e-3, True),
        ("float32", 1e-2, False),
        ("float32", 0.2, True),
    ):
        weights = (0.25 + away, -1.0)
        other = dataclasses.replace(mine, weights=weights, weights_dtype=dtype)
        assert bool(mine.differences(other)) is differs
    assert mine.differences(dataclasses.replace(mine, weights=(0.25,))) == ["weights"]


def test_json_and_back() -> None:
    mine = _fingerprint()
    values = json.loads(json.dumps(mine.to_dict()))
    assert Fingerprint.from_dict(values) == mine
    with pytest.raises(ValueError, match=r"unknown keys \['seed'\] and lacks \[\]"):
        Fingerprint.from_dict({**values, "seed": 1})
    older = {
        **{k: v for k, v in values.items() if k in ("model_class", "height", "width")},
        **{k: v for k, v in values.items() if k.startswith(("model_c", "scheduler_c"))},
        "num_inference_steps": 50,
        "guidance_scale": 1.5,
        "lora": ["winter", "oil"],
    }
    read = Fingerprint.from_dict(older)
    assert read.adapters == ("oil", "winter")
    digests = (mine.model_config_digest, mine.scheduler_config_digest)
    assert read.differences(dataclasses.replace(mine, old_digests=digests)) == []
    values.pop("height")
    with pytest.raises(ValueError, match=r"lacks \['height'\]"):
        Fingerprint.from_dict(values)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_class": None},
        {"num_inference_steps": 0},
        {"num_inference_steps": 5.0},
        {"height": True},
        {"guidance_scale": float("nan")},
        {"guidance_scale": "high"},
        {"adapters": "oil"},
        {"adapters": (1,)},
        {"segments": 7},
        {"start_step": -1},
        {"start_step": 1.0},
        {"schedule_digest": 3},
        {"weights": (float("nan"),)},
        {"weights": ("x",)},
        {"weights_dtype": 16},
        {"control": False},
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        _fingerprint(**changes)
    if changes != {"adapters": (1,)}:
        with pytest.raises(ValueError, match=next(iter(changes))):
            Fingerprint.from_dict({**_fingerprint().to_dict(), **changes})


def test_digests_tell_configurations_apart() -> None:
    digest = config_digest({"a": 1, "b": None, "c": [1, 2]})
    assert digest == config_digest({"c": (1, 2), "b": None, "a": 1})
    assert digest == config_digest({"a": 1, "b": None, "c": [1, 2], "_diffusers_version": "1"})
    assert digest != config_digest({"a": 1, "b": None, "c": [2, 1]})
    assert digest != config_digest({"a": 1.5, "b": None, "c": [1, 2]})


def test_keys_at_their_defaults_do_not_count() -> None:
    class Model:
        def __init__(self, layers: int, heads: int = 4, sizes: tuple[int, ...] = (1, 2)) -> None:
            pass

    digest = config_digest({"layers": 2}, Model)
    assert digest == config_digest({"layers": 2, "heads": 4}, Model)
    assert digest == config_digest({"layers": 2, "heads": 4, "sizes": [1, 2]}, Model)
    assert digest != config_digest({"layers": 2, "heads": 8}, Model)
    assert digest != config_digest({"layers": 2, "sizes": [1, 3]}, Model)
    # Those that the class does not know count.
    assert digest != config_digest({"layers": 2, "tails": None}, Model)
