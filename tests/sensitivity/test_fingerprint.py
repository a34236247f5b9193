# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from typing import Any

import pytest

from genaccel.sensitivity.fingerprint import Fingerprint, config_digest


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
        "lora": ("winter", "oil"),
    }
    return Fingerprint(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"lora": ["oil", "winter"]}, None),
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
        ({"lora": ()}, "The plan was made with LoRA oil, winter, this run has no LoRA."),
        (
            {"num_inference_steps": 20, "lora": ("oil",)},
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
        other = dataclasses.replace(mine, **{field.name: change})
        assert mine.differences(other) == [field.name]
        assert mine.explain_mismatch(other)


def test_json_and_back() -> None:
    mine = _fingerprint()
    values = json.loads(json.dumps(mine.to_dict()))
    assert Fingerprint.from_dict(values) == mine
    with pytest.raises(ValueError, match=r"unknown keys \['seed'\] and lacks \[\]"):
        Fingerprint.from_dict({**values, "seed": 1})
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
        {"lora": "oil"},
        {"lora": (1,)},
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        _fingerprint(**changes)
    if changes != {"lora": (1,)}:
        with pytest.raises(ValueError, match=next(iter(changes))):
            Fingerprint.from_dict({**_fingerprint().to_dict(), **changes})


def test_digests_tell_configurations_apart() -> None:
    digest = config_digest({"a": 1, "b": None, "c": [1, 2]})
    assert digest == config_digest({"c": (1, 2), "b": None, "a": 1})
    assert digest == config_digest({"a": 1, "b": None, "c": [1, 2], "_diffusers_version": "1"})
    assert digest != config_digest({"a": 1, "b": None, "c": [2, 1]})
    assert digest != config_digest({"a": 1.5, "b": None, "c": [1, 2]})
