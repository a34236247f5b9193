# SPDX-License-Identifier: Apache-2.0
"""What a plan was measured on, so that it is not used on something else unnoticed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        lora: Names of the adapters in use, in any order.
    """

    model_class: str
    model_config_digest: str
    scheduler_class: str
    scheduler_config_digest: str
    num_inference_steps: int
    height: int
    width: int
    guidance_scale: float | None = None
    lora: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "model_class",
            "model_config_digest",
            "scheduler_class",
            "scheduler_config_digest",
        ):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a string, got {getattr(self, name)!r}")
        for name in ("num_inference_steps", "height", "width"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        scale = self.guidance_scale
        if scale is not None and (type(scale) not in (int, float) or not abs(scale) < float("inf")):
            raise ValueError(f"guidance_scale must be a finite number or None, got {scale!r}")
        if isinstance(self.lora, str) or not all(isinstance(name, str) for name in self.lora):
            raise ValueError(f"lora must hold names, got {self.lora!r}")
        object.__setattr__(self, "lora", tuple(sorted(self.lora)))

    def differences(self, other: Fingerprint) -> list[str]:
        """Names of the fields that differ, in the order of the class."""
        names = [f.name for f in dataclasses.fields(self)]
        return [n for n in names if getattr(self, n) != getattr(other, n)]

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
        if "lora" in differing:
            mine, theirs = (
                f"LoRA {', '.join(f.lora)}" if f.lora else "no LoRA" for f in (self, other)
            )
            sentences.append(f"The plan was made with {mine}, this run has {theirs}.")
        return " ".join(sentences) or None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**dataclasses.asdict(self), "lora": list(self.lora)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Build from ``to_dict`` output; unknown or missing keys raise ValueError."""
        known = {f.name for f in dataclasses.fields(cls)}
        if set(values) != known:
            raise ValueError(
                f"fingerprint has unknown keys {sorted(set(values) - known)} and lacks "
                f"{sorted(known - set(values))}"
            )
        if not isinstance(values["lora"], list | tuple):
            raise ValueError(f"lora must hold names, got {values['lora']!r}")
        return cls(**{**values, "lora": tuple(values["lora"])})


def config_digest(config: Mapping[str, Any]) -> str:
    """Hash a diffusers config, independently of the order of its keys.

    Keys that begin with an underscore do not count: they name where a model came from and which
    version saved it.

    Example:
        >>> config_digest({"a": 1, "b": [2]}) == config_digest({"b": (2,), "a": 1, "_name": "x"})
        True
    """
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    text = json.dumps(public, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
