# SPDX-License-Identifier: Apache-2.0
"""Feeds damaged files to everything that reads files, under watch: containers, models, plans, records, pictures.

Each case follows from its kind and number alone, so that ``--case "container 1234"`` runs one again, without a watch.
It ends well, with an exception of the reader's contract, or it is a failure: a crash, a hang, another exception, and for
inputs below a kilobyte too much memory or time. The inputs of failures are kept in ``build/fuzz/failures``, nothing else
is. The state is written as the run proceeds; ``--resume`` goes on from it, with new numbers where a run was whole.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._fuzz.containers import Containers, ShippedContainers
from bench._fuzz.folders import Models, Plans, Records
from bench._fuzz.pictures import Pictures
from bench._fuzz.subject import Subject
from bench._fuzz.watch import FAILURES, run_here, run_watched
from bench.harness import Bench
from genaccel.files.atomic import write_json


class Kind(NamedTuple):
    """A kind of inputs, and how many of them a full and a quick run take."""

    subject: Callable[[], Subject]
    full: int
    quick: int


KINDS: dict[str, Kind] = {
    "container": Kind(Containers, 100_000, 1500),
    "shipped container": Kind(ShippedContainers, 3000, 30),
    "model": Kind(Models, 5000, 150),
    "plan": Kind(Plans, 5000, 500),
    "record": Kind(Records, 3000, 150),
    "image": Kind(Pictures, 10_000, 500),
}
ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "fuzz"
SANITIZE = ROOT / "bench" / "results" / "sanitize.json"
# Of a round; rounds of all kinds alternate for as long as --hours says.
_ROUND = 1000
_SAVE_EVERY_S = 10.0
_MOST_FAILURES = 200


@dataclass(kw_only=True)
class Progress:
    """What was run of one kind.

    Attributes:
        next: Number of the next case.
        seconds: That it took.
        ends: How many cases ended how.
        details: The same in more detail.
        failures: Some of the cases that failed.
    """

    next: int = 0
    seconds: float = 0.0
    ends: dict[str, int] = field(default_factory=dict)
    details: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)


class Campaign:
    """Runs kinds, and keeps what became of them in a file.

    Args:
        work: Folder of the state and of the inputs of failures.
        resume: Go on from the state that is there.
    """

    def __init__(self, work: Path, *, resume: bool) -> None:
        self._state, self._failures = work / "state.json", work / "failures"
        self.progress = {kind: Progress() for kind in KINDS}
        if resume and self._state.is_file():
            known = json.loads(self._state.read_text())
            self.progress |= {kind: Progress(**values) for kind, values in known.items()}
        self._saved = time.monotonic()

    def run(self, kind: str, count: int) -> None:
        """Run so many more cases of a kind."""
        progress = self.progress[kind]
        begun, ends, details = time.monotonic(), Counter(progress.ends), Counter(progress.details)
        before = progress.seconds
        numbers = range(progress.next, progress.next + count)
        for outcome in run_watched(KINDS[kind].subject, numbers, self._failures):
            ends[outcome.end] += 1
            if outcome.end not in FAILURES:
                details[outcome.detail] += 1
            elif len(progress.failures) < _MOST_FAILURES:
                progress.failures.append({"kind": kind, **outcome._asdict()})
                print(f"{kind} {outcome.number}: {outcome.end}: {outcome.detail}", flush=True)
            progress.next, progress.ends, progress.details = (
                outcome.number + 1,
                dict(ends),
                dict(details),
            )
            progress.seconds = before + time.monotonic() - begun
            if time.monotonic() - self._saved > _SAVE_EVERY_S:
                self.save()
        self.save()

    def save(self) -> None:
        """Write the state."""
        state = {kind: asdict(progress) for kind, progress in self.progress.items()}
        write_json(self._state, state, overwrite=True, parents=True)
        self._saved = time.monotonic()


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "fuzz",
        __doc__ or "",
        {
            "hours": (
                float,
                0.0,
                0.0,
                "run rounds of all kinds for so long, instead of the counts of a full run",
            ),
            "resume": (bool, False, False, "go on from the state in build/fuzz"),
            "kind": (str, "", "", f"only one of {', '.join(KINDS)}"),
            "count": (int, 0, 0, "cases of each kind, instead of those of a full run"),
            "case": (str, "", "", 'run one case without a watch, such as "container 1234"'),
        },
    )
    options = bench.options
    if options["case"]:
        kind, number = options["case"].rsplit(" ", 1)
        run_here(KINDS[kind].subject, int(number))
        return
    chosen = [options["kind"]] if options["kind"] else list(KINDS)
    campaign = Campaign(WORK, resume=bool(options["resume"]))
    counts: dict[str, int] = {
        k: int(options["count"]) or (KINDS[k].quick if bench.quick else KINDS[k].full)
        for k in chosen
    }
    if options["hours"]:
        end = time.monotonic() + 3600 * options["hours"]
        while time.monotonic() < end:
            for kind in chosen:
                # In proportion, so that all are whole at once.
                campaign.run(kind, max(1, _ROUND * counts[kind] // max(counts.values())))
    else:
        for kind in chosen:
            done = campaign.progress[kind].next if options["resume"] else 0
            campaign.run(kind, counts[kind] - done % counts[kind])
    _report(bench, campaign.progress, counts)
    bench.finish(["torch", "Pillow", "safetensors"])


def _report(bench: Bench, progress: dict[str, Progress], counts: dict[str, int]) -> None:
    """Fill in tables and bars."""
    done = {kind: p for kind, p in progress.items() if p.next}
    for kind, p in done.items():
        bench.rows.append(
            {
                "kind": kind,
                "cases": p.next,
                "ok": p.ends.get("ok", 0),
                "refused": p.ends.get("refused", 0),
                **{failure: p.ends.get(failure, 0) for failure in FAILURES},
                "seconds": round(p.seconds, 1),
                "seconds_per_10000": round(1e4 * p.seconds / p.next, 1),
            }
        )
    bench.tables["ends"] = [
        {"kind": kind, "end": end, "cases": count}
        for kind, p in done.items()
        for end, count in sorted(p.details.items())
    ]
    bench.tables["failures"] = [failure for p in done.values() for failure in p.failures]
    for kind, count in counts.items():
        bench.bar(f"{kind} cases", progress[kind].next, count)
    for failure in FAILURES:
        found = sum(p.ends.get(failure, 0) for p in done.values())
        bench.bar(f"{failure} (files)", found, 0, higher_is_better=False)
    if SANITIZE.is_file():  # inputs of the coder and of ops, with sanitizers
        record = json.loads(SANITIZE.read_text())
        bench.tables["sanitizers"] = record["rows"]
        bench.bars += [{**bar, "name": f"sanitizers: {bar['name']}"} for bar in record["bars"]]


if __name__ == "__main__":
    main()
