# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding of image tokens, exact, relaxed and with skipped verifications, beside plain decoding.

    python bench/vvs.py [--quick] [--json FILE] [--work DIR] [--sets] [--digits FOLDER] [--make MODE]

What must be exact is counted on a tiny float64 model and on photo-ar; forwards, likelihood and CPU time are of photo-ar
with guidance 2, on one thread. Likelihood is that of committed tokens under the guided target, teacher-forced; a gap is the
mean of -log p less that of plain decoding's tokens, and "over entropy" the same less the entropy of the distribution that a
token stands for, which is 0 for plain decoding and varies less. LANTERN lends within its bound and its guesses are drawn, as
in LANTERN++.

``--sets`` also makes 1,000 pictures of each mode and 2,000 plain ones, whose distance from each other is the floor, and
``--digits`` 10,000 digits with a generator of them. These take hours; they, and the parts of a full run, are kept in ``--work``,
so that a run that was stopped goes on where it was. ``--make vvs`` makes the sets of one mode and ends, so that several
processes can share them.

A quick run counts on four pictures and takes times and statistics from the full run that bench/results/vvs.json records.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._decoding.ablations import NUM_OF_PAPER, direction_rows
from bench._decoding.contact_sheet import draw_sheet
from bench._decoding.edge_cases import edge_case_rows
from bench._decoding.exactness import (
    assisted_generation,
    golden_rows,
    lantern_variation,
    largest_cache_difference,
    lossless_rows,
    tree_p_value,
)
from bench._decoding.generator import (
    DYNAMIC,
    EXACT,
    JACOBI,
    LANTERN,
    PLAIN,
    RANDOM,
    UNIFORM_TREE,
    VVS,
    Generator,
)
from bench._decoding.integrations import integration_rows
from bench._decoding.likelihood import gap
from bench._decoding.measurements import (
    COLUMNS,
    DIGIT_CHUNKS,
    SECOND_SET,
    SET,
    ablated,
    accuracy_drop,
    count_of,
    count_rows,
    digit_accuracies,
    equal_share_threshold,
    identical_pictures,
    kernel_distances,
    replayed,
    set_likelihood,
    times,
)
from bench._decoding.parts import Parts
from bench._decoding.sample_sets import SampleSets
from bench.harness import MEASURED, Bench
from genaccel import zoo
from genaccel.eval.results import source_commit

RECORD = Path(__file__).parent / "results" / "vvs.json"
ZOO_MODEL = "photo-ar"

# Bars of a full run, in their order: target, and whether to lie above it.
BARS: dict[str, tuple[float, bool]] = {
    "golden_mismatches": (0, False),
    "lossless_differing_tokens": (0, False),
    "lossless_compared_tokens": (20_000, True),
    "identical_pictures_of_100": (99, True),
    "transformers_assisted_differs": (1, True),
    "stochastic_tree_p_value": (0.001, True),
    "lantern_variation_over_delta": (1.0, False),
    "cache_after_skip": (1e-5, False),
    "jacobi_tokens_per_forward": (1.2, True),
    "exact_tokens_per_forward": (1.5, True),
    "lantern_tokens_per_forward": (1.9, True),
    "vvs_tokens_per_forward": (2.8, True),
    "vvs_over_no_skipping": (1.6, True),
    "dynamic_less_likely_than_uniform": (0.0, False),
    "lantern_gap_nats": (0.25, False),
    "vvs_gap_nats": (0.5, False),
    "random_gap_nats": (1.5, True),
    # Of one picture, and of a batch of 16, in which rows of guesses cost a processor as much as those of more pictures.
    "vvs_speedup_single": (1.4, True),
    "vvs_speedup_batch": (1.4, True),
    "lantern_speedup_single": (1.2, True),
    "lantern_speedup_batch": (1.2, True),
    "exact_speedup_single": (1.0, True),
    "exact_speedup_batch": (1.0, True),
    "auto_speedup_single": (0.97, True),
    "auto_speedup_batch": (0.97, True),
    "overhead": (0.15, False),
    "replay_efficiency": (0.85, True),
    "replay_overhead": (0.03, False),
    "lantern_distance_floors": (3.0, False),
    "vvs_distance_floors": (3.0, False),
    "digit_classifier_accuracy": (0.99, True),
    "exact_digits_drop": (3.0, False),
    "lantern_digits_drop": (3.0, False),
    "vvs_digits_drop": (3.0, False),
    "ablation_directions": (NUM_OF_PAPER, True),
    "edge_cases_wrong": (0, False),
    "integrations_differing": (0, False),
}
# Of a quick run, which takes the others from the record.
QUICK_BARS = (
    "golden_mismatches",
    "lossless_differing_tokens",
    "lossless_compared_tokens",
    "transformers_assisted_differs",
    "stochastic_tree_p_value",
    "lantern_variation_over_delta",
    "cache_after_skip",
    "jacobi_tokens_per_forward",
    "exact_tokens_per_forward",
    "lantern_tokens_per_forward",
    "vvs_tokens_per_forward",
    "vvs_over_no_skipping",
    "edge_cases_wrong",
    "integrations_differing",
)
# CPU-seconds of a part of a full run, on one core of a shared machine.
SECONDS = {
    "exactness": 90,
    "identical": 130,
    "counts": 520,
    "threshold": 110,
    "times": 330,
    "replay": 90,
    "ablations": 220,
}
# Of a chunk of 50 photographs, and of 500 digits, with any mode.
SECONDS_OF_CHUNK = 28
_SET_MODES = (PLAIN, LANTERN, VVS)
_DIGIT_MODES = (PLAIN, EXACT, LANTERN, VVS)


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "vvs",
        __doc__.splitlines()[0],
        {
            "work": (Path, Path("out/vvs"), Path("out/vvs"), "folder of what long runs keep"),
            "sets": (bool, False, False, "also make 1,000 photographs of each mode"),
            "digits": (Path, None, None, "folder of a generator of digits, with its drafter"),
            "mnist": (Path, Path("data/digits"), None, "folder of `genaccel data digits`"),
            "make": (str, "", "", "make the sets of this mode alone, and end"),
        },
    )
    _prepare()
    run = Run(bench, Generator.load(zoo.path(ZOO_MODEL)), bench.options["work"])
    if bench.options["make"]:
        run.make(bench.options["make"])
        return
    if bench.quick:
        run.quick()
    else:
        run.full()
    bench.finish(["torch", "transformers", "diffusers", "genaccel"])


def _prepare() -> None:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    # CPU time of one thread is work; that of several is also waiting for each other.
    torch.set_num_threads(1)
    blas: Any = importlib.import_module("threadpoolctl")  # it has no types
    blas.threadpool_limits(1)
    warnings.filterwarnings("ignore", module="(torch|diffusers|transformers)")
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _tiny_models_alone() -> tuple[list[dict[str, Any]], ...]:
    """What is found out on tiny models, in a process of its own."""
    _prepare()
    return lossless_rows(), edge_case_rows(), integration_rows()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Run:
    """One run of the benchmark.

    Attributes:
        bench: Its tables and bars.
        generator: Of photographs.
        work: Folder of what is kept.
    """

    bench: Bench
    generator: Generator
    work: Path

    def __post_init__(self) -> None:
        self.commit = source_commit(MEASURED)
        self.photographs = SampleSets(
            generator=self.generator, folder=self.work / "photo", chunk=50, commit=self.commit
        )
        folder = self.bench.options["digits"]
        self.digits = None
        if folder is not None and not self.bench.quick:
            generator = Generator.load(folder)
            self.digits = SampleSets(
                generator=generator, folder=self.work / "digits", chunk=500, commit=self.commit
            )
        self.values: dict[str, float | None] = {}

    def make(self, name: str) -> None:
        """The sets of one mode.

        Raises:
            ValueError: If there is no such mode.
        """
        modes = {mode.name: mode for mode in _DIGIT_MODES}
        if name not in modes:
            raise ValueError(f"--make takes one of {', '.join(modes)}, got {name!r}")
        mode = modes[name]
        if self.digits is not None:
            self.digits.tokens(mode, DIGIT_CHUNKS)
        elif mode in _SET_MODES:
            self.photographs.tokens(mode, range(SECOND_SET.stop) if mode is PLAIN else SET)
        else:
            self.photographs.tokens(mode, range(2))

    def quick(self) -> None:
        """What needs no statistics, on four pictures."""
        # On the second core.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            tiny = pool.submit(_tiny_models_alone)
            counts = {
                mode.name: count_of(self.generator, mode, batches=1, columns=4)
                for mode in (PLAIN, JACOBI, EXACT, LANTERN, VVS)
            }
            self._exactness(draws=8000)
            self._take_counts(counts)
            lossless, edge_cases, integrations = tiny.result()
        self._take_lossless(lossless)
        self._take_edge_cases(edge_cases)
        self._take_integrations(integrations)
        for name in QUICK_BARS:
            self._bar(name)
        recorded = {name: target for name, (target, _) in BARS.items() if name not in QUICK_BARS}
        print(self.bench.take_recorded_bars(recorded, RECORD))

    def full(self) -> None:
        """All of it."""
        self._say_cost()
        parts = Parts(self.work / "parts", self.commit)
        self._exactness(draws=200_000, parts=parts)
        self._take_lossless(parts.result("lossless", lossless_rows))
        self._take_edge_cases(parts.result("edge-cases", edge_case_rows))
        self._take_integrations(parts.result("integrations", integration_rows))
        same = parts.result("identical", lambda: identical_pictures(self.photographs))
        self.values["identical_pictures_of_100"] = same["same"]
        found = parts.result(
            "threshold", lambda: equal_share_threshold(self.generator, UNIFORM_TREE, DYNAMIC)
        )
        _say(
            f"similarity {found['threshold']:.3f} skips {found['uniform_share']:.3f} of the tokens"
        )
        dynamic = DYNAMIC.with_skip(DYNAMIC.name, threshold=found["threshold"])
        counts = {
            mode.name: parts.result(
                f"count-{mode.name}",
                partial(count_of, self.generator, mode, batches=4, columns=COLUMNS),
            )
            for mode in (PLAIN, JACOBI, EXACT, LANTERN, VVS, UNIFORM_TREE, dynamic, RANDOM)
        }
        self._take_counts(counts)
        self._take_dynamic(counts)
        self._sheet(counts)
        self._take_times(
            [
                *parts.result("times-16", lambda: times(self.generator, columns=COLUMNS, rounds=3)),
                *parts.result("times-1", lambda: times(self.generator, columns=1, rounds=5)),
            ]
        )
        self._take_replay(parts.result("replay", replayed))
        rows = direction_rows(parts.result("ablations", lambda: ablated(self.generator, batches=2)))
        self.bench.tables[
            "ablations of skipping, 32 pictures or 16 where paths are uneven, nats over entropy"
        ] = rows
        self.values["ablation_directions"] = sum(
            row["as_the_paper"] for row in rows if not row["paper"].startswith("none")
        )
        if self.bench.options["sets"] or not self._missing_chunks():
            self._take_sets(parts)
        if self.digits is not None:
            self._take_digits(parts)
        for name in BARS:
            self._bar(name)

    def _missing_chunks(self) -> int:
        return sum(
            not self.photographs.path(mode, number).is_file()
            for mode in _SET_MODES
            for number in (range(SECOND_SET.stop) if mode is PLAIN else SET)
        )

    def _say_cost(self) -> None:
        missing = self._missing_chunks()
        _say(f"about {sum(SECONDS.values()) / 60:.0f} min of CPU time without the sets")
        if self.bench.options["sets"]:
            _say(
                f"photographs: {missing} chunks of 50 are missing, about {missing * SECONDS_OF_CHUNK / 60:.0f} min, "
                "and 20 min to judge them"
            )
        if self.digits is not None:
            left = sum(
                not self.digits.path(mode, number).is_file()
                for mode in _DIGIT_MODES
                for number in DIGIT_CHUNKS
            )
            _say(f"digits: {left} chunks of 500 are missing")

    def _exactness(self, *, draws: int, parts: Parts | None = None) -> None:
        golden = golden_rows()
        self.bench.tables["the authors' numbers"] = golden
        self.values["golden_mismatches"] = sum(row["mismatches"] for row in golden)
        assisted = assisted_generation()
        self.bench.tables[
            "greedy with guidance 3, tokens until the first that plain decoding has not"
        ] = [
            {"decoding": "ours", "tokens": assisted.ours, "of": assisted.tokens},
            {
                "decoding": "transformers' assisted generation",
                "tokens": assisted.theirs,
                "of": assisted.tokens,
            },
        ]
        is_right = assisted.ours == assisted.tokens and assisted.theirs < assisted.tokens
        self.values["transformers_assisted_differs"] = float(is_right)

        def p_value() -> float:
            return tree_p_value(draws=draws)

        self.values["stochastic_tree_p_value"] = (
            p_value() if parts is None else parts.result("chi-square", p_value)
        )
        variation = lantern_variation()
        self.bench.tables["LANTERN's total variation of a step, by enumeration"] = variation
        self.values["lantern_variation_over_delta"] = max(row["over_delta"] for row in variation)
        self.values["cache_after_skip"] = largest_cache_difference(self.generator, VVS)

    def _take_lossless(self, rows: list[dict[str, Any]]) -> None:
        self.bench.tables["tokens of a tiny float64 model beside plain decoding's"] = rows
        self.values["lossless_differing_tokens"] = sum(row["differing"] for row in rows)
        self.values["lossless_compared_tokens"] = sum(row["tokens"] for row in rows)

    def _take_edge_cases(self, rows: list[dict[str, Any]]) -> None:
        self.bench.tables["at the edge"] = rows
        self.values["edge_cases_wrong"] = sum(not row["ok"] for row in rows)

    def _take_integrations(self, rows: list[dict[str, Any]]) -> None:
        self.bench.tables[
            "tiny generators of diffusers and transformers, accelerated by one line"
        ] = rows
        self.values["integrations_differing"] = sum(row["differing"] for row in rows)

    def _take_counts(self, counts: dict[str, dict[str, Any]]) -> None:
        self.bench.rows += count_rows(counts)
        for mode in (JACOBI, EXACT, LANTERN, VVS):
            name = f"{mode.name}_tokens_per_forward"
            self.values[name] = counts[mode.name]["tokens_per_forward"]
        plain, exact, vvs = (counts[mode.name] for mode in (PLAIN, EXACT, VVS))
        self.values["vvs_over_no_skipping"] = (
            vvs["tokens_per_forward"] / exact["tokens_per_forward"]
        )
        for mode in (LANTERN, VVS, RANDOM):
            if mode.name in counts:
                self.values[f"{mode.name}_gap_nats"] = gap(
                    counts[mode.name]["negative"], plain["negative"]
                ).mean

    def _take_dynamic(self, counts: dict[str, dict[str, Any]]) -> None:
        dynamic, uniform = counts[DYNAMIC.name], counts[UNIFORM_TREE.name]
        rows = []
        for what, key in (("over entropy", "excess"), ("as they are", "negative")):
            found = gap(dynamic[key], uniform[key])
            rows.append({"nats": what, "difference": found.mean, "error": found.standard_error})
            if key == "excess":
                self.values["dynamic_less_likely_than_uniform"] = found.mean
        self.bench.tables[
            "dynamic less uniform skipping of one tree, at equal unverified share"
        ] = rows

    def _sheet(self, counts: dict[str, dict[str, Any]]) -> None:
        path = self.work / "sheet.png"
        rows = [
            torch.tensor(counts[mode.name]["tokens"][:8]) for mode in (PLAIN, EXACT, LANTERN, VVS)
        ]
        draw_sheet(self.generator, rows, path)
        _say(f"{path}: rows plain, exact, LANTERN, VVS")

    def _take_times(self, rows: list[dict[str, Any]]) -> None:
        self.bench.tables["CPU time of one thread, in turn"] = rows
        for row in rows:
            if row["mode"] != PLAIN.name:
                size = "single" if row["columns"] == 1 else "batch"
                self.values[f"{row['mode']}_speedup_{size}"] = row["speedup"]
        self.values["overhead"] = max(row["overhead"] for row in rows if row["mode"] != PLAIN.name)

    def _take_replay(self, found: dict[str, Any]) -> None:
        if found:
            title = "RANDOM weights of 342 M with the acceptance of photo-ar REPLAYED"
            self.bench.tables[title] = [found]
            self.values["replay_efficiency"] = found["efficiency"]
            self.values["replay_overhead"] = found["overhead"]

    def _take_sets(self, parts: Parts) -> None:
        sets = self.photographs
        judged = {
            mode.name: parts.result(
                f"set-likelihood-{mode.name}", partial(set_likelihood, sets, mode, SET)
            )
            for mode in _SET_MODES
        }
        found = parts.result("distances", lambda: kernel_distances(sets, (LANTERN, VVS)))
        rows = []
        for mode in (LANTERN, VVS):
            nats = gap(judged[mode.name]["negative"], judged[PLAIN.name]["negative"])
            excess = gap(judged[mode.name]["excess"], judged[PLAIN.name]["excess"])
            # More pictures than those that were counted, and so the better estimate.
            self.values[f"{mode.name}_gap_nats"] = nats.mean
            floors = found[mode.name] / found["floor"]
            self.values[f"{mode.name}_distance_floors"] = floors
            rows.append(
                {
                    "mode": mode.name,
                    "pictures": len(judged[mode.name]["negative"]),
                    "gap_nats": nats.mean,
                    "gap_error": nats.standard_error,
                    "over_entropy": excess.mean,
                    "over_entropy_error": excess.standard_error,
                    "kd_mobilenet_v2": found[mode.name],
                    "floor": found["floor"],
                    "plain_to_plain": found["plain_to_plain"],
                    "floors": floors,
                }
            )
        self.bench.tables["sets of photographs"] = rows

    def _take_digits(self, parts: Parts) -> None:
        assert self.digits is not None
        sets, data = self.digits, self.bench.options["mnist"]
        found = parts.result(
            "digits",
            lambda: digit_accuracies(sets, _DIGIT_MODES, data=data, work=self.work),
        )
        count = found["pictures"]
        self.values["digit_classifier_accuracy"] = found["classifier"]
        rows = [{"set": "test digits of MNIST", "right": found["classifier"], "drop": None}]
        for mode in _DIGIT_MODES:
            drop = accuracy_drop(found[PLAIN.name], found[mode.name], count)
            rows.append({"set": mode.name, "right": found[mode.name], "drop": drop})
            if mode is not PLAIN:
                self.values[f"{mode.name}_digits_drop"] = drop
        self.bench.tables[f"{count} digits, drop in standard errors from plain decoding"] = rows

    def _bar(self, name: str) -> None:
        target, higher_is_better = BARS[name]
        value = self.values.get(name)
        self.bench.bar(name, value, target, higher_is_better=higher_is_better)


if __name__ == "__main__":
    main()
