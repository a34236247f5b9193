# SPDX-License-Identifier: Apache-2.0
"""The plan of an accelerated run: which steps compute which segments. It is saved as JSON and tensors."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as save_safetensors

from genaccel.files.atomic import write_atomically
from genaccel.files.untrusted import read_bounded_bytes, read_json, shown
from genaccel.sensitivity.config import FORECASTERS
from genaccel.sensitivity.plans.fingerprint import Fingerprint

PLAN_VERSION = 2
# Of which the first did not say what weights and timesteps a plan was made for.
_READ_VERSIONS = (1, 2)
PLAN_NAME = "sensitivity_plan.json"
PLAN_TENSORS_NAME = "sensitivity_plan.safetensors"

_ARRAYS = {
    "compute_mask": np.dtype(bool),
    "forecaster_index": np.dtype(np.int8),
    "module_mask": np.dtype(bool),
    "token_counts": np.dtype(np.int32),
    "affine_slope": np.dtype(np.float32),
    "affine_intercept": np.dtype(np.float32),
    "time_weights": np.dtype(np.float32),
}
_STORED_AS = {
    np.dtype(bool): "BOOL",
    np.dtype(np.int8): "I8",
    np.dtype(np.int32): "I32",
    np.dtype(np.float32): "F32",
}
# The largest of ours have some 100 kB.
_MAX_TENSOR_BYTES = 2**26
# FLOPs of a planned run over those of the plain one: beyond, the reciprocal means nothing.
_LEAST_FRACTION, _LARGEST_FRACTION = 1e-6, 1e3
# A window with larger shares would be no mean any more.
_LARGEST_SHARE = 4.0
_REQUIRED_ARRAYS = {"compute_mask", "forecaster_index"}
_PLAIN = ("forecasters", "granularity", "segment_of_layer", "expected_error", "flop_fraction")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """A plan: the segments that each step computes, and the forecasters of the others.

    Args:
        fingerprint: The run that it was made for.
        compute_mask: ``[S, G]``, bool, for S steps and G segments; true at the first step.
        forecasters: Names of the forecasters in use.
        forecaster_index: ``[S, G]``, int8: index into ``forecasters``, or -1 where the segment is
            computed.
        granularity: What is forecast at a step that is not computed: what a "segment" adds as a
            whole, where its layers have no tokens to compute; the "output" of the model; the output
            of every attention and feed-forward "module"; or, for "mixed", the one or the other.
        module_mask: ``[S, G]``, bool, with "mixed" alone: true where the outputs of attention and
            feed-forward are forecast, and not what the segment adds.
        token_counts: ``[S, L, M]``, int32, for L layers and M submodules: tokens to compute, all of
            them where the layer's segment is computed; or None for none at the others.
        segment_of_layer: The segment of each of the L layers, if there are token counts.
        affine_slope: ``[S, K, G, M]``, float32, of the affine corrector, or None.
        affine_intercept: The same.
        time_weights: ``[S, W]``, float32: at a step that computes all segments, what each step from
            ``W // 2`` before it to as many behind counts in the time that the model is given
            (:mod:`genaccel.sensitivity.planning.time_windows`); None for each step's own time.
        expected_error: Sum of the measured errors of what is not computed, or None if unknown.
        flop_fraction: FLOPs of the planned run over those of the plain one.

    Raises:
        ValueError: If the parts do not fit each other.
    """

    fingerprint: Fingerprint
    compute_mask: NDArray[np.bool_]
    forecasters: tuple[str, ...]
    forecaster_index: NDArray[np.int8]
    granularity: Literal["segment", "output", "module", "mixed"] = "segment"
    module_mask: NDArray[np.bool_] | None = None
    token_counts: NDArray[np.int32] | None = None
    segment_of_layer: tuple[int, ...] = ()
    affine_slope: NDArray[np.float32] | None = None
    affine_intercept: NDArray[np.float32] | None = None
    time_weights: NDArray[np.float32] | None = None
    expected_error: float | None = None
    flop_fraction: float

    def __post_init__(self) -> None:
        for name, dtype in _ARRAYS.items():
            array = getattr(self, name)
            if array is not None and (not isinstance(array, np.ndarray) or array.dtype != dtype):
                raise ValueError(f"{name} must be an array of {dtype}")
        mask = self.compute_mask
        steps = self.fingerprint.num_inference_steps
        if mask.ndim != 2 or len(mask) != steps or not mask.shape[1]:
            raise ValueError(f"compute_mask must be [{steps}, segments], got {mask.shape}")
        if not mask[0].all():
            raise ValueError("the first step must compute every segment: it has nothing to reuse")
        index = self.forecaster_index
        if (
            index.shape != mask.shape
            or ((index < 0) != mask).any()
            or index.max() >= len(self.forecasters)
        ):
            raise ValueError(
                f"forecaster_index must be {list(mask.shape)}, below 0 exactly where compute_mask is set, "
                f"and else one of the {len(self.forecasters)} forecasters"
            )
        if not all(isinstance(name, str) for name in self.forecasters):
            raise ValueError(f"forecasters must hold names, got {shown(self.forecasters)}")
        if not set(self.forecasters) <= set(FORECASTERS):
            raise ValueError(
                f"forecasters must be some of {', '.join(FORECASTERS)}, got {shown(self.forecasters)}"
            )
        self._check_tokens()
        self._check_granularity()
        self._check_times()
        slope, intercept = self.affine_slope, self.affine_intercept
        if (slope is None) != (intercept is None):
            raise ValueError("affine_slope and affine_intercept come together")
        if slope is not None and intercept is not None:
            fits = slope.ndim == 4 and (slope.shape[0], slope.shape[2]) == mask.shape
            if not fits or slope.shape != intercept.shape or not slope.size:
                raise ValueError(
                    f"affine_slope and affine_intercept must both be [{steps}, intervals, {mask.shape[1]}, tensors]"
                    f", got {slope.shape} and {intercept.shape}"
                )
            if not (np.isfinite(slope).all() and np.isfinite(intercept).all()):
                raise ValueError("affine_slope and affine_intercept must be finite")
        elif "affine" in self.forecasters:
            raise ValueError("the affine forecaster needs affine_slope and affine_intercept")
        fraction = self.flop_fraction
        if not _is_number(fraction) or not _LEAST_FRACTION <= fraction <= _LARGEST_FRACTION:
            raise ValueError(
                f"flop_fraction must be above 0, from {_LEAST_FRACTION:g} to {_LARGEST_FRACTION:g}, got {shown(fraction)}"
            )
        error = self.expected_error
        if error is not None and not (_is_number(error) and 0 <= error < math.inf):
            raise ValueError(
                f"expected_error must be finite and not negative, or None, got {shown(error)}"
            )

    def _check_granularity(self) -> None:
        kinds = ("segment", "output", "module", "mixed")
        if self.granularity not in kinds:
            raise ValueError(f"granularity must be one of {kinds}, got {shown(self.granularity)}")
        submodules, computed = self.module_mask, self.compute_mask
        if self.granularity == "output" and (
            self.token_counts is not None or (computed != computed[:, :1]).any()
        ):
            raise ValueError(
                'granularity "output" computes all segments at the same steps, and no tokens at others'
            )
        used = {self.forecasters[i] for i in np.unique(self.forecaster_index) if i >= 0}
        if self.granularity == "output" and "affine" in used:
            raise ValueError('granularity "output" has no affine forecaster')
        if (submodules is None) != (self.granularity != "mixed"):
            raise ValueError('module_mask belongs to granularity "mixed", and to no other')
        if submodules is not None and (
            submodules.shape != computed.shape or (submodules & computed).any()
        ):
            raise ValueError(
                f"module_mask must be {list(computed.shape)} and set only where nothing is computed"
            )

    def _check_times(self) -> None:
        weights = self.time_weights
        if weights is None:
            return
        steps = len(self.compute_mask)
        if weights.ndim != 2 or len(weights) != steps or weights.shape[1] % 2 == 0:
            raise ValueError(f"time_weights must be [{steps}, an odd width], got {weights.shape}")
        place = np.arange(steps)[:, None] + np.arange(weights.shape[1]) - weights.shape[1] // 2
        outside = (place < 0) | (place >= steps)
        sums = weights.sum(axis=1)
        is_computed = self.compute_mask.all(axis=1)
        if (
            not np.isfinite(weights).all()
            or (np.abs(weights) > _LARGEST_SHARE).any()
            or weights[outside].any()
            or (np.abs(sums[is_computed] - 1) > 1e-3).any()
            or weights[~is_computed].any()
        ):
            raise ValueError(
                f"time_weights must be within -{_LARGEST_SHARE:g} and {_LARGEST_SHARE:g}, and have the sum 1 at "
                "computed steps and 0 at others"
            )

    def _check_tokens(self) -> None:
        counts, owners = self.token_counts, self.segment_of_layer
        steps, segments = self.compute_mask.shape
        if counts is None:
            if owners:
                raise ValueError("segment_of_layer belongs to token_counts, which are missing")
            return
        if (
            counts.ndim != 3
            or len(counts) != steps
            or len(owners) != counts.shape[1]
            or not counts.shape[2]
        ):
            raise ValueError(
                f"token_counts must be [{steps}, {len(owners)} layers as in segment_of_layer, submodules], "
                f"got {counts.shape}"
            )
        if not all(type(s) is int and 0 <= s < segments for s in owners):
            raise ValueError(
                f"segment_of_layer must name segments 0 to {segments - 1}, got {shown(owners)}"
            )
        computed = self.compute_mask[:, list(owners)][:, :, None]
        if (
            (counts < 0).any()
            or (counts > counts[0]).any()
            or (computed & (counts != counts[0])).any()
        ):
            raise ValueError(
                "token_counts must be those of the first step where the segment is computed, and nowhere more"
            )

    @property
    def num_segments(self) -> int:
        """Number of segments, G."""
        return int(self.compute_mask.shape[1])

    @property
    def partial_mask(self) -> NDArray[np.bool_]:
        """Mask of the steps at which a segment runs on forecasts of its submodules, ``[S, G]``, bool."""
        if self.granularity == "module":
            return ~self.compute_mask
        if self.module_mask is not None:
            return self.module_mask
        mask = np.zeros_like(self.compute_mask)
        if self.token_counts is not None:
            for layer, segment in enumerate(self.segment_of_layer):
                mask[:, segment] |= (self.token_counts[:, layer] > 0).any(axis=1)
        partial: NDArray[np.bool_] = mask & ~self.compute_mask
        return partial

    def steps_computation_mask(self, segment: int | None = None) -> list[int]:
        """The schedule for cache-dit: 1 for a computed step, 0 for a cached one.

        Args:
            segment: Of which segment; may be left out if all have the same schedule.

        Raises:
            ValueError: If it is left out and the segments differ, as cache-dit has one mask for all
                blocks.
        """
        if segment is None:
            if (self.compute_mask != self.compute_mask[:, :1]).any():
                raise ValueError(
                    "the segments of this plan have different schedules and cache-dit knows only one; "
                    "name a segment"
                )
            segment = 0
        if not 0 <= segment < self.num_segments:
            raise ValueError(f"segment must be from 0 to {self.num_segments - 1}, got {segment}")
        return [int(c) for c in self.compute_mask[:, segment]]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``sensitivity_plan.json`` and ``.safetensors`` into a folder.

        Each file appears whole or not at all; the JSON, written last, names the digest of the
        other.
        """
        arrays = {
            name: np.ascontiguousarray(getattr(self, name))
            for name in _ARRAYS
            if getattr(self, name) is not None
        }
        tensors = save_safetensors(arrays)
        values = {
            "version": PLAN_VERSION,
            "fingerprint": self.fingerprint.to_dict(),
            "tensors_sha256": hashlib.sha256(tensors).hexdigest(),
            **{name: getattr(self, name) for name in _PLAIN},
        }
        path = Path(folder)
        write_atomically(path / PLAN_TENSORS_NAME, tensors, overwrite=True, parents=True)
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        write_atomically(path / PLAN_NAME, text, overwrite=True)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Plan:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            FileNotFoundError: If there is no plan in the folder.
            ValueError: If a file is damaged, of another version, or has unknown keys.
        """
        path = Path(folder) / PLAN_NAME
        try:
            values = read_json(path)
        except ValueError as error:
            raise ValueError(f"{path} is no plan: {error}") from None
        try:
            tensors = read_bounded_bytes(Path(folder) / PLAN_TENSORS_NAME, _MAX_TENSOR_BYTES)
            return cls(**_parse(values, tensors))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no valid plan: {error}") from None


def _parse(values: Any, tensors: bytes) -> dict[str, Any]:
    """Arguments of ``Plan`` from both files."""
    if not isinstance(values, dict):
        raise ValueError("the JSON holds no object")
    # The version first: the keys of another one may well be others.
    version = values.get("version")
    if type(version) is not int or version not in _READ_VERSIONS:
        raise ValueError(
            f"version {shown(version)} was written by another genaccel, this one reads up to {PLAN_VERSION}"
        )
    known = {"version", "fingerprint", "tensors_sha256", *_PLAIN}
    if set(values) != known:
        raise ValueError(
            f"unknown keys {shown(sorted(set(values) - known))}, missing keys {sorted(known - set(values))}"
        )
    if hashlib.sha256(tensors).hexdigest() != values["tensors_sha256"]:
        raise ValueError(f"{PLAN_TENSORS_NAME} is damaged or belongs to another plan")
    arrays = _arrays(tensors)
    for name in ("forecasters", "segment_of_layer"):
        if not isinstance(values[name], list):
            raise ValueError(f"{name} must be a list, got {shown(values[name])}")
    if not isinstance(values["fingerprint"], dict):
        raise ValueError("fingerprint must be an object")
    return {
        "fingerprint": Fingerprint.from_dict(values["fingerprint"]),
        "forecasters": tuple(values["forecasters"]),
        "granularity": values["granularity"],
        "segment_of_layer": tuple(values["segment_of_layer"]),
        "expected_error": values["expected_error"],
        "flop_fraction": values["flop_fraction"],
        **arrays,
    }


def _arrays(tensors: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a plan, each of the type that it must have."""
    try:
        parts = dict(deserialize(tensors))
    except SafetensorError as error:
        raise ValueError(f"{PLAN_TENSORS_NAME} is damaged ({error})") from None
    if not _REQUIRED_ARRAYS <= set(parts) <= set(_ARRAYS):
        raise ValueError(f"{PLAN_TENSORS_NAME} holds {shown(sorted(parts))}")
    arrays: dict[str, NDArray[Any]] = {}
    for name, part in parts.items():
        dtype = _ARRAYS[name]
        if part["dtype"] != _STORED_AS[dtype]:
            raise ValueError(f"{name} must be an array of {dtype}, got {part['dtype']}")
        if dtype.kind == "b" and any(part["data"].translate(None, b"\0\1")):
            raise ValueError(f"{name} must hold 0 and 1")
        arrays[name] = np.frombuffer(part["data"], dtype).reshape(part["shape"])
    return arrays


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
