# SPDX-License-Identifier: Apache-2.0
"""Folders of plans: beside a model, and in the user's cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genaccel.files.atomic import write_json
from genaccel.files.untrusted import read_json, shown
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.plans.fingerprint import Fingerprint
from genaccel.sensitivity.plans.plan import PLAN_NAME, Plan

# Of what plans are made by. Plans in the cache are of one version: a planner that makes better ones
# is not to find those of older ones.
_PLANNER_VERSION = 3

# Beside the folders of a pipeline's models.
LIBRARY_FOLDER = "sensitivity"
INDEX_NAME = "plans.json"

_LARGEST_RATIO = 1e6
# A plan this much slower than asked for is still what was asked for: steps are whole.
_SPEEDUP_SLACK = 0.02
# One much faster is not: it gives up quality that nobody wanted to give up.
_SPEEDUP_EXCESS = 1.35


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A plan of a library, with its measured speed and quality.

    Attributes:
        folder: Its folder, relative to the library.
        component: The pipeline's model that it is for.
        flop_ratio: FLOPs without acceleration over those with it.
        speedup: Measured, of the whole pipeline call; None if it was not.
        psnr: Decibels to the unaccelerated samples, mean; None if it was not measured.
        st_lpips: ST-LPIPS (vgg) to them; None if it was not measured.
        config: Values of the planner's config.

    Raises:
        ValueError: If a value is of another type or not finite, or the folder leads out of the library.
    """

    folder: str
    component: str
    flop_ratio: float
    speedup: float | None = None
    psnr: float | None = None
    st_lpips: float | None = None
    config: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("folder", "component"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a text, got {shown(getattr(self, name))}")
        parts = Path(self.folder).parts
        if os.path.isabs(self.folder) or os.pardir in parts or "\0" in self.folder:
            raise ValueError(f"folder must be one in the library, got {shown(self.folder)}")
        for name in ("flop_ratio", "speedup", "psnr", "st_lpips"):
            value = getattr(self, name)
            # The PSNR of equal samples is infinite.
            is_number = type(value) in (int, float) and (
                math.isfinite(value) or (name == "psnr" and value == math.inf)
            )
            if not is_number and (name == "flop_ratio" or value is not None):
                raise ValueError(f"{name} must be a finite number, got {shown(value)}")
        if not 0 < self.flop_ratio < _LARGEST_RATIO:
            raise ValueError(f"flop_ratio must be above 0, got {self.flop_ratio}")
        if self.config is not None and not isinstance(self.config, dict):
            raise ValueError(f"config must be an object or None, got {shown(self.config)}")


class PlanLibrary:
    """A folder of plans with an index.

    Args:
        folder: The folder, which need not exist.

    Raises:
        ValueError: If the index is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.entries: list[PlanEntry] = []
        self.damaged: list[str] = []  # what the last choice could not read, a sentence each
        index = self.folder / INDEX_NAME
        if index.is_file():
            try:
                self.entries = [PlanEntry(**values) for values in read_json(index, infinity=True)]
            except (ValueError, TypeError) as error:
                raise ValueError(f"{index} is no index of plans: {error}") from None
        elif (self.folder / PLAN_NAME).is_file():
            # A lone plan is a library of one.
            plan = Plan.from_pretrained(self.folder)
            self.entries = [PlanEntry(".", "", 1 / plan.flop_fraction)]

    def add(self, plan: Plan, entry: PlanEntry) -> None:
        """Keep a plan; one of the same folder is replaced. The index is written last."""
        plan.save_pretrained(self.folder / entry.folder)
        self.entries = [e for e in self.entries if e.folder != entry.folder] + [entry]
        index = [dataclasses.asdict(e) for e in self.entries]
        write_json(self.folder / INDEX_NAME, index, overwrite=True)

    def load(self, entry: PlanEntry) -> Plan:
        """The plan of an entry.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, or its folder is a link out of the library.
        """
        folder = self.folder / entry.folder
        if not folder.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"{folder} leads out of the library, and is not followed")
        return Plan.from_pretrained(folder)

    def choose(
        self, config: SensitivityConfig, component: str, run: Fingerprint | None = None
    ) -> tuple[PlanEntry, Plan] | None:
        """The best plan for a target.

        Args:
            config: The config with the target.
            component: Name of the model in its pipeline.
            run: Plans made for another run are passed over; None takes them all. Of another number
                of steps they are passed over if a speed-up is asked for and no folder was named:
                measuring this run then gives a better plan than one that is stretched (at 8 steps
                35.6 dB instead of 26.8). Else they are taken if there is no other.

        Returns:
            For a speed-up the plan of the highest PSNR among those that reach it by FLOPs, and of
            these the one closest to it where nothing was measured; for a quality, or "max", the
            fastest that keeps it. Plans that can't be read are passed over. None if there is no
            such plan.
        """
        tolerated = {"guidance_scale", "height", "width"}
        if config.plan is not None or config.speedup is None:
            tolerated |= {"num_inference_steps", "schedule_digest", "start_step"}
        self.damaged = []
        found: list[tuple[tuple[float, ...], PlanEntry, Plan]] = []
        for entry in self.entries:
            if entry.component not in (component, "") or not _meets(entry, config):
                continue
            try:
                plan = self.load(entry)
            except (OSError, ValueError) as error:
                self.damaged.append(str(error))
                continue
            differing = set() if run is None else set(plan.fingerprint.differences(run))
            if differing - tolerated:
                continue
            rank: tuple[float, ...]
            if isinstance(config.speedup, int | float):
                psnr = -math.inf if entry.psnr is None else entry.psnr
                rank = (-len(differing), psnr, -entry.flop_ratio)
            else:
                rank = (-len(differing), entry.speedup or entry.flop_ratio)
            found.append((rank, entry, plan))
        if not found:
            return None
        _, entry, plan = max(found, key=lambda item: item[0])
        return entry, plan


def _meets(entry: PlanEntry, config: SensitivityConfig) -> bool:
    if isinstance(config.speedup, int | float):
        least = config.speedup * (1 - _SPEEDUP_SLACK)
        return least <= entry.flop_ratio <= config.speedup * _SPEEDUP_EXCESS
    if config.min_psnr is not None:
        return entry.psnr is not None and entry.psnr >= config.min_psnr
    if config.max_lpips is not None:
        return entry.st_lpips is not None and entry.st_lpips <= config.max_lpips
    return True


def cached_plan_folder(config: SensitivityConfig, run: Fingerprint, component: str) -> Path:
    """The folder in the cache for the plan of a run, for users who asked for this config.

    The two transformers of a pipeline may be of one class and configuration; their names differ.
    """
    asked = {
        k: v
        for k, v in config.to_dict().items()
        if k not in ("plan", "cache_dir", "cache_megabytes", "first_run")
    }
    # Guidance hardly moves the errors of a plan; each scale would be calibrated anew.
    made_for = {k: v for k, v in run.to_dict().items() if k != "guidance_scale"}
    # Sums of weights may differ in their last digits between machines that share a cache.
    made_for["weights"] = [round(w, 3) for w in run.weights or ()]
    text = json.dumps([_PLANNER_VERSION, asked, made_for, component], sort_keys=True)
    return config.cache_folder / hashlib.sha256(text.encode()).hexdigest()[:24]
