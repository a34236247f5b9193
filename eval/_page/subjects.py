# SPDX-License-Identifier: Apache-2.0
"""What runs are about: those that judge the same pairs of images together, and names that tell runs apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from genaccel.eval._page.run_files import Run


@dataclass(slots=True)
class Subject:
    """Runs of different metrics over the same pairs of images.

    Attributes:
        name: The user's label, or else what the runs have in common.
        runs: The first one decides which images are the worst.
        metrics: The metric of each run by a key of its own.
    """

    name: str
    runs: list[Run] = field(default_factory=list)

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        return {metric_key(run): run.content["metric"] for run in self.runs}

    @property
    def sets(self) -> list[str]:
        """Originals and results as they were given to the commands; empty if no run tells."""
        return next((run.content["sets"] for run in self.runs if run.content["sets"]), [])

    def takes(self, run: Run) -> bool:
        """Whether a run judges what the others judge, with a metric that they lack."""
        labels = {other.content["label"] for other in self.runs}
        known = all(other.content["sets"] for other in self.runs) and run.content["sets"]
        same_sets = run.content["sets"] == self.sets if known else run.content["label"] != ""
        return (
            {run.content["label"]} == labels
            and same_sets
            and metric_key(run) not in self.metrics
            and any(
                run.content["images"].keys() & other.content["images"].keys() for other in self.runs
            )
        )

    def images(self) -> list[tuple[str, dict[str, float | None]]]:
        """Names with their values by metric, the worst by the first metric first."""
        names = dict.fromkeys(name for run in self.runs for name in run.content["images"])
        rows = [
            (name, {metric_key(run): run.content["images"].get(name) for run in self.runs})
            for name in names
        ]
        key, metric = next(iter(self.metrics.items()))
        return sorted(rows, key=lambda row: badness(row[1][key], metric))


def metric_key(run: Run) -> str:
    """What tells the metric of a run from others; records that lack a key have a title."""
    metric = run.content["metric"]
    return str(metric["key"] or metric["title"])


def badness(value: float | None, metric: Mapping[str, Any]) -> tuple[bool, float]:
    """Sorts the worst value first and missing ones last; with an unknown direction all stay in place."""
    if value is None:
        return True, 0.0
    sign = {True: 1.0, False: -1.0, None: math.nan}[metric["higher_is_better"]]
    return False, 0.0 if math.isnan(sign) else sign * value


def subjects_of(runs: Sequence[Run]) -> list[Subject]:
    """Put the runs of paired metrics together that judge the same pairs, each under a name of its own."""
    subjects: list[Subject] = []
    for run in runs:
        subject = next((one for one in subjects if one.takes(run)), None)
        if subject is None:
            subject = Subject(run.name)
            subjects.append(subject)
        subject.runs.append(run)
    for subject in subjects:
        if len(subject.runs) > 1 and not subject.runs[0].content["label"]:
            subject.name = PurePath(subject.sets[1]).name if len(subject.sets) > 1 else subject.name
    folders = [subject.runs[0].path.resolve().parent.name for subject in subjects]
    for subject, name in zip(
        subjects, distinct([subject.name for subject in subjects], folders), strict=True
    ):
        subject.name = name
    return subjects


def with_distinct_names(runs: Sequence[Run]) -> list[Run]:
    """The same runs, with names that no two runs of one kind and metric share."""
    renamed = dict(enumerate(runs))
    groups: dict[tuple[str, str], list[int]] = {}
    for index, run in enumerate(runs):
        key = metric_key(run) if "metric" in run.content else ""
        groups.setdefault((run.kind, key), []).append(index)
    for indices in groups.values():
        chosen = [runs[index] for index in indices]
        folders = [run.path.resolve().parent.name for run in chosen]
        names = distinct([run.name for run in chosen], folders)
        for index, run, name in zip(indices, chosen, names, strict=True):
            renamed[index] = replace(run, name=name)
    return list(renamed.values())


def distinct(names: Sequence[str], folders: Sequence[str] | None = None) -> list[str]:
    """Names that differ: equal ones get their folder where that tells them apart, or else a number.

    Example:
        >>> distinct(["jpeg", "jpeg", "webp"], ["a", "b", "b"])
        ['jpeg (a)', 'jpeg (b)', 'webp']
        >>> distinct(["jpeg", "jpeg"])
        ['jpeg (1)', 'jpeg (2)']
    """
    found = list(names)
    if folders is not None:
        places = Counter(zip(names, folders, strict=True))
        counts = Counter(names)
        for index, pair in enumerate(zip(names, folders, strict=True)):
            alone = sum(1 for name, _ in places if name == pair[0]) == counts[pair[0]]
            if counts[pair[0]] > 1 and alone:
                found[index] = f"{pair[0]} ({pair[1]})"
    taken = Counter(found)
    seen: Counter[str] = Counter()
    used = {name for name, count in taken.items() if count == 1}
    for index, name in enumerate(found):
        if taken[name] > 1:
            seen[name] += 1
            while (candidate := f"{name} ({seen[name]})") in used:
                seen[name] += 1
            used.add(candidate)
            found[index] = candidate
    return found
