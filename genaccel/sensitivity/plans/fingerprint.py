# SPDX-License-Identifier: Apache-2.0
"""The fingerprint of a run: a plan keeps that of the run it was measured on, to notice if it is used on another.

How the parts are read off a pipeline is in :mod:`genaccel.sensitivity.plans.run_identity`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genaccel.files.untrusted import shown

# Of steps, and of sides in pixels or tokens.
_LARGEST = 2**24
_MAY_BE_UNKNOWN = (
    "segments",
    "start_step",
    "schedule_digest",
    "weights",
    "weights_dtype",
    "control",
)
# Begins a digest of version 1.
_OLD = "all keys: "
# Of sketches of length 1: summed in another order, and in 8 to 16 bits instead of 32.
_SAME_WEIGHTS = 1e-5
_ROUNDED_WEIGHTS = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """The run that a plan belongs to.

    Args:
        model_class: Class name of the denoiser.
        model_config_digest: :func:`config_digest` of its config.
        scheduler_class: Class name of the scheduler.
        scheduler_config_digest: :func:`config_digest` of its config.
        num_inference_steps: Steps of the sampler.
        height: Rows of the model's input; tokens where it is a sequence.
        width: Its columns; 1 for a sequence.
        guidance_scale: Of classifier-free guidance, or None without.
        adapters: Those in use, each with its scale, in any order.
        segments: Digest of the model's segmentation; like all below, None for a plan of an older
            genaccel, which did not say.
        start_step: Place of the first step in the scheduler's timesteps: 0 but for runs from an
            image, or parts of a run.
        schedule_digest: Of timesteps and noise levels.
        weights: Sketch of the model's weights, adapters included.
        weights_dtype: Of most of them.
        control: Class name of a model that feeds its outputs into the denoiser's blocks, such as
            "FluxControlNetModel"; empty for none.
        old_digests: Of the model's and the scheduler's config with all their keys, as plans of
            version 1 have them; not kept with a plan.
    """

    model_class: str
    model_config_digest: str
    scheduler_class: str
    scheduler_config_digest: str
    num_inference_steps: int
    height: int
    width: int
    guidance_scale: float | None = None
    adapters: tuple[str, ...] = ()
    segments: str | None = None
    start_step: int | None = None
    schedule_digest: str | None = None
    weights: tuple[float, ...] | None = None
    weights_dtype: str | None = None
    control: str | None = None
    old_digests: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in (
            "model_class",
            "model_config_digest",
            "scheduler_class",
            "scheduler_config_digest",
        ):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a string, got {shown(getattr(self, name))}")
        for name in ("num_inference_steps", "height", "width"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= _LARGEST:
                raise ValueError(
                    f"{name} must be a whole number of at least 1 and at most {_LARGEST}, got {shown(value)}"
                )
        scale = self.guidance_scale
        if scale is not None and (type(scale) not in (int, float) or not abs(scale) < float("inf")):
            raise ValueError(f"guidance_scale must be a finite number or None, got {shown(scale)}")
        if isinstance(self.adapters, str) or not all(isinstance(n, str) for n in self.adapters):
            raise ValueError(f"adapters must hold names, got {shown(self.adapters)}")
        object.__setattr__(self, "adapters", tuple(sorted(self.adapters)))
        for name in ("segments", "schedule_digest", "weights_dtype", "control"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be a string or None, got {shown(value)}")
        start = self.start_step
        if start is not None and (type(start) is not int or not 0 <= start <= _LARGEST):
            raise ValueError(f"start_step must be a whole number or None, got {shown(start)}")
        weights = self.weights
        if weights is not None and not all(
            type(w) in (int, float) and abs(w) < float("inf") for w in weights
        ):
            raise ValueError(f"weights must hold finite numbers, got {shown(weights)}")

    def differences(self, other: Fingerprint) -> list[str]:
        """Names of the fields that differ, in the order of the class.

        A field that one of them does not know does not differ. Weights of one dtype must be equal; of two,
        no further apart than rounding puts them.
        """
        differing = []
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name in _MAY_BE_UNKNOWN and (mine is None or theirs is None):
                continue
            if field.name == "weights":
                tolerance = (
                    _SAME_WEIGHTS if self.weights_dtype == other.weights_dtype else _ROUNDED_WEIGHTS
                )
                if len(mine) == len(theirs) and all(
                    abs(a - b) <= tolerance for a, b in zip(mine, theirs, strict=True)
                ):
                    continue
            elif (
                field.name in ("weights_dtype", "old_digests")
                or mine == theirs
                or (str(mine).startswith(_OLD) and mine.removeprefix(_OLD) in other.old_digests)
            ):
                continue
            differing.append(field.name)
        return differing

    def explain_mismatch(self, other: Fingerprint) -> str | None:
        """Say what differs between this plan's run and another run.

        Args:
            other: The run at hand.

        Returns:
            A sentence for each difference, or None if there is none.

        Example:
            >>> made_for = Fingerprint(
            ...     model_class="DiT",
            ...     model_config_digest="0",
            ...     scheduler_class="DDIM",
            ...     scheduler_config_digest="1",
            ...     num_inference_steps=50,
            ...     height=256,
            ...     width=256,
            ... )
            >>> made_for.explain_mismatch(dataclasses.replace(made_for, num_inference_steps=20))
            'The plan was made for 50 inference steps, this run has 20.'
        """
        differing = self.differences(other)
        sentences = []
        for kind in ("model", "scheduler"):
            mine, theirs = getattr(self, f"{kind}_class"), getattr(other, f"{kind}_class")
            if mine != theirs:
                sentences.append(f"The plan was made for the {kind} {mine}, this one is {theirs}.")
            elif f"{kind}_config_digest" in differing:
                sentences.append(
                    f"The plan was made for a {mine} of another configuration than this {kind}'s."
                )
        if "num_inference_steps" in differing:
            sentences.append(
                f"The plan was made for {self.num_inference_steps} inference steps, "
                f"this run has {other.num_inference_steps}."
            )
        if "height" in differing or "width" in differing:
            sentences.append(
                f"The plan was made for model inputs of {self.height} x {self.width}, "
                f"this run has {other.height} x {other.width}."
            )
        if "guidance_scale" in differing:
            mine, theirs = (
                "no guidance"
                if f.guidance_scale is None
                else f"a guidance scale of {f.guidance_scale:g}"
                for f in (self, other)
            )
            sentences.append(f"The plan was made for {mine}, this run has {theirs}.")
        if "adapters" in differing:
            mine, theirs = (
                f"LoRA {', '.join(f.adapters)}" if f.adapters else "no LoRA" for f in (self, other)
            )
            sentences.append(f"The plan was made with {mine}, this run has {theirs}.")
        if "weights" in differing:
            sentences.append(f"The plan was made for other weights of {self.model_class}.")
        if "segments" in differing:
            sentences.append("The plan was made for other segments of the model than this run has.")
        if "start_step" in differing or "schedule_digest" in differing:
            sentences.append(
                f"The plan was made for other timesteps (from step {self.start_step} of the schedule, "
                f"this run from step {other.start_step})."
            )
        if "control" in differing:
            sentences.append(
                f"The plan was made with {self.control or 'no ControlNet'}, this run has {other.control or 'none'}."
            )
        return " ".join(sentences) or None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        values = {
            **dataclasses.asdict(self),
            "adapters": list(self.adapters),
            "weights": None if self.weights is None else list(self.weights),
        }
        del values["old_digests"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Build from ``to_dict`` output, or an older one; unknown or missing keys raise ValueError."""
        if "lora" in values:
            # Digests were of all keys then, and did not tell the weights.
            values = {
                **{key: value for key, value in values.items() if key != "lora"},
                "adapters": values["lora"],
                **{
                    name: f"{_OLD}{values[name]}"
                    for name in ("model_config_digest", "scheduler_config_digest")
                    if values.get(name)
                },
                **dict.fromkeys(_MAY_BE_UNKNOWN),
            }
        known = {f.name for f in dataclasses.fields(cls)} - {"old_digests"}
        if set(values) != known:
            raise ValueError(
                f"fingerprint has unknown keys {shown(sorted(set(values) - known))} and lacks "
                f"{sorted(known - set(values))}"
            )
        for name in ("adapters", "weights"):
            if not isinstance(values[name], list | tuple) and (
                name == "adapters" or values[name] is not None
            ):
                raise ValueError(f"{name} must be a list, got {shown(values[name])}")
        weights = values["weights"]
        return cls(
            **{
                **values,
                "adapters": tuple(values["adapters"]),
                "weights": None if weights is None else tuple(weights),
            }
        )


def config_digest(config: Mapping[str, Any], cls: type | None = None) -> str:
    """Hash a diffusers config, independently of the order of its keys.

    Keys that begin with an underscore do not count: they name where a model came from and which
    version saved it.

    Args:
        config: Of a model or scheduler.
        cls: Its class. Keys at the defaults of its constructor do not count either: a later version
            of diffusers may add some.

    Example:
        >>> config_digest({"a": 1, "b": [2]}) == config_digest({"b": (2,), "a": 1, "_name": "x"})
        True
    """
    defaults = {} if cls is None else _defaults(cls)
    public = {
        key: value
        for key, value in config.items()
        if not key.startswith("_")
        and not (key in defaults and _json(defaults[key]) == _json(value))
    }
    return hashlib.sha256(_json(public).encode()).hexdigest()[:32]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _defaults(cls: type) -> dict[str, Any]:
    try:
        parameters = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    except (TypeError, ValueError):
        return {}
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
