# SPDX-License-Identifier: Apache-2.0
"""Finds the plan of a run: in a given folder, beside the model, in the cache, or from a run before.

No error in looking for a plan or keeping one fails a run: it is logged as a warning, and the run goes
on without that plan, or keeps its own in memory.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genaccel.hooks.director import Structure
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.plans.fingerprint import Fingerprint
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.plans.plan_library import (
    INDEX_NAME,
    LIBRARY_FOLDER,
    PlanLibrary,
    cached_plan_folder,
)

_logger = logging.getLogger(__name__)

# Of a given folder: what a plan can't be used on, and what only makes it worse.
_FATAL = frozenset(
    {
        "model_class",
        "model_config_digest",
        "scheduler_class",
        "adapters",
        "segments",
        "control",
        "weights",
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class FoundPlan:
    """A plan and where it is from.

    Attributes:
        plan: The plan.
        origin: Where it is from, in words for the report.
        folder: Its folder, where it has one.
    """

    plan: Plan
    origin: str
    folder: Path | None = None


class PlanSource:
    """Finds and keeps the plans of one model.

    Args:
        config: What the user asked for.
        component: Name of the model in its pipeline.
        model: The model.
        pipeline: The pipeline that it is from, or None.

    Raises:
        ValueError: If a folder was given that has no plan for this model, or a quality was asked for
            and there are no plans that were measured to keep one.
    """

    def __init__(
        self, config: SensitivityConfig, component: str, model: Any, pipeline: Any = None
    ) -> None:
        self.config = config
        self.component = component
        self._given: PlanLibrary | None = None
        self._beside = [
            folder / LIBRARY_FOLDER
            for folder in map(_folder_of, (pipeline, model))
            if folder is not None
        ]
        self._made: dict[Path, Plan] = {}  # in this process, by the folder it would be cached in
        self._said: set[str] = set()
        self._lock = threading.Lock()
        if config.plan is not None:
            self._given = self._open_given(model, pipeline)
        elif config.has_floor and not any(
            (folder / INDEX_NAME).is_file() for folder in self._beside
        ):
            raise ValueError(
                f"no plan of {component} was measured to keep the quality that was asked for; "
                "measure some with genaccel.sensitivity.study.tune (or `genaccel tune`) and name their folder in plan="
            )

    def _open_given(self, model: Any, pipeline: Any) -> PlanLibrary:
        assert self.config.plan is not None
        library = PlanLibrary(self.config.plan)
        chosen = library.choose(self.config, self.component)
        if chosen is None:
            has = ", ".join(f"{e.flop_ratio:.2f}x" for e in library.entries) or "none"
            damaged = f" ({library.damaged[0]})" if library.damaged else ""
            raise ValueError(
                f"{self.config.plan} has no plan that meets the target; it has {has}{damaged}"
            )
        scheduler = getattr(pipeline, "scheduler", None)
        made_for = []
        for entry in library.entries:
            if entry.component in (self.component, ""):
                with suppress(OSError, ValueError):  # those that can't be read are passed over
                    made_for.append(library.load(entry).fingerprint)
        fits = [
            f
            for f in made_for
            if f.model_class == type(model).__name__
            and (scheduler is None or f.scheduler_class == type(scheduler).__name__)
        ]
        if not fits:
            kinds = sorted({f"{f.model_class} with {f.scheduler_class}" for f in made_for})
            raise ValueError(
                f"{self.config.plan} has plans for {', '.join(kinds)}, this is {type(model).__name__} with "
                f"{type(scheduler).__name__}: calibrate for it, or leave plan= out"
            )
        return library

    @property
    def may_be_partial(self) -> bool:
        """Whether a plan may be found that runs blocks on forecasts of their submodules."""
        if self.config.has_partial_steps:
            return True
        libraries = [] if self._given is None else [self._given]
        for folder in self._beside:
            library = self._library(folder)
            libraries += [] if library is None else [library]
        for library in libraries:
            for entry in library.entries:
                try:
                    if library.load(entry).partial_mask.any():
                        return True
                except (OSError, ValueError):
                    continue
        return False

    def find(self, run: Fingerprint, structure: Structure) -> FoundPlan | None:
        """The plan of a run, or None."""
        if self._given is not None:
            return self._find_given(run, structure)
        stored = self.stored_plan(run)
        if stored is not None and not fits_structure(stored.plan, structure):
            return None
        return stored

    def stored_plan(self, run: Fingerprint) -> FoundPlan | None:
        """The plan that is kept for a run beside the model, in this process or in the cache, or None."""
        for folder in self._beside:
            library = self._library(folder)
            beside = None if library is None else library.choose(self.config, self.component, run)
            if library is not None:
                for sentence in library.damaged:
                    self._say(f"{sentence}; it is passed over")
            if library is not None and beside is not None:
                entry, plan = beside
                where = library.folder / entry.folder
                return FoundPlan(plan, f"beside the model ({entry.folder})", where)
        if self.config.has_floor:
            return None  # those in the cache are of no measured quality
        cached = cached_plan_folder(self.config, run, self.component)
        made = self._made.get(cached)
        if made is not None:
            return FoundPlan(made, "measured in this process", cached)
        if not os.path.isdir(cached):  # also where the path can't even be asked for
            return None
        try:
            plan = Plan.from_pretrained(cached)
        except OSError:
            return None  # none yet; where it can't be read, it will be said that it can't be kept
        except ValueError as error:
            self._say(f"a plan in the cache can't be used and is made anew: {error}")
            return None
        if set(plan.fingerprint.differences(run)) - {"guidance_scale"}:
            return None
        self._made[cached] = plan
        return FoundPlan(plan, f"from the cache ({cached.name[:8]})", cached)

    def _library(self, folder: Path) -> PlanLibrary | None:
        try:
            return PlanLibrary(folder)
        except (OSError, ValueError) as error:
            self._say(f"the plans beside the model can't be read and are passed over: {error}")
            return None

    def _find_given(self, run: Fingerprint, structure: Structure) -> FoundPlan | None:
        assert self._given is not None
        chosen = self._given.choose(self.config, self.component, run)
        if chosen is None:
            chosen = self._given.choose(self.config, self.component)
        for damaged in self._given.damaged:
            self._say(f"{damaged}; it is passed over")
        if chosen is None:
            if not self._given.damaged:
                self._say(f"{self.config.plan} has no plan any more that meets the target")
            return None
        entry, plan = chosen
        sentence = plan.fingerprint.explain_mismatch(run)
        if (sentence and _FATAL & set(plan.fingerprint.differences(run))) or not fits_structure(
            plan, structure
        ):
            reason = sentence or "The plan was made for other segments of the model."
            self._say(f"{reason} It is not used; calibrate for this run, or leave plan= out.")
            return None
        if sentence is not None:
            self._say(f"{sentence} It is used nevertheless; calibrate to do better.")
        return FoundPlan(plan, f"given ({entry.folder})", self._given.folder / entry.folder)

    def keep(self, plan: Plan) -> None:
        """Keep a plan for later runs, in this process and if possible in others."""
        cached = cached_plan_folder(self.config, plan.fingerprint, self.component)
        with self._lock:
            self._made[cached] = plan
            try:
                plan.save_pretrained(cached)
            except (OSError, ValueError) as error:
                self._say(
                    f"the plan of {self.component} can't be kept in {cached.parent} ({error}): it is used in this "
                    "process only; set GENACCEL_CACHE or cache_dir to a folder that can be written"
                )

    def _say(self, sentence: str) -> None:
        """Log a warning, each sentence once."""
        if sentence not in self._said:
            self._said.add(sentence)
            _logger.warning("%s", sentence)

    @property
    def notes(self) -> tuple[str, ...]:
        """The warnings so far, a sentence each."""
        return tuple(sorted(self._said))


def fits_structure(plan: Plan, structure: Structure) -> bool:
    """Whether a model is built as the plan takes it to be: all else would be wrong silently."""
    if plan.num_segments != len(structure.segments):
        return False
    if plan.token_counts is None:
        return True
    if plan.segment_of_layer != tuple(layer.segment for layer in structure.layers):
        return False
    tokenless = [i for i, layer in enumerate(structure.layers) if not layer.num_tokens]
    return not plan.token_counts[:, tokenless].any()


def _folder_of(owner: Any) -> Path | None:
    """The folder that a pipeline or model was loaded from; None if it is not on this disk."""
    name = getattr(getattr(owner, "config", None), "_name_or_path", None)
    if not name or not Path(name).is_dir():
        return None
    return Path(name)
