# SPDX-License-Identifier: Apache-2.0
"""SODA side by side with other caches for diffusion transformers, and with fewer steps, at equal CPU time.

    python bench/soda.py [--quick] [--json FILE] [--model DIR] [--device cpu|cuda]

All methods sample the same classes from the same noise, which no plan was measured or tuned on. For each the slowest
setting is chosen that reaches 2x and 3x in CPU time, on samples for calibration; then all of them and the plain
pipeline run in turn on batch after batch of the test samples, and the medians of these rounds are what is printed.
"genaccel" is what a user has who enables one pipeline and runs it once; "tuned" is that of our settings which is closest
on further samples for calibration. PSNR, ST-LPIPS and FD are to the unaccelerated samples, and the tables "against" have
the mean difference of each method to ours, sample by sample, with its 95 % interval. Speed-ups and FLOP ratios are of
sampling, without the decoder; "with decoding" has it. What does not reach a speed is not compared, nor judged if it stays far
below.

A quick run checks on one pipeline what needs no statistics, and takes the rest from the full run that
bench/results/soda.json records. On a CPU everything has one thread.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._sensitivity.checks import check_pipeline, measured_over_plain, run_by_rule
from bench._sensitivity.large_model import cost_of_steps, large_trials, large_workload
from bench._sensitivity.ours import OURS, Ours, ablation_methods, our_methods
from bench._sensitivity.peers import peers
from bench._sensitivity.quality import Judge, Quality
from bench._sensitivity.statistics import Against, against, nearest
from bench._sensitivity.workload import Workload
from bench.harness import Bench
from genaccel import zoo
from genaccel.errors import UnknownModelError
from genaccel.sampling.costs import cost_of_call
from genaccel.sampling.methods import Method
from genaccel.sampling.pipelines import load_pipeline
from genaccel.sampling.rounds import Outcome, Rounds, run_rounds
from genaccel.sampling.speed_search import SLACK, Failure, Search, Trial

ZOO_MODEL = "landscapes-dit"
RECORD = Path(__file__).parent / "results" / "soda.json"
TARGETS = (2.0, 3.0)
# Wall time and FLOPs are compared at this batch or more: below it a GPU waits for the host.
_BATCH = 4
# Calibration batches of the plans that the ablation compares.
_CALIBRATION_BATCHES = 2
# Where schedules and forecasters differ more than at 2x. They are compared on half of the samples.
_PARTS_SPEEDUP = 3.0
# Of a measured run over a plain one, and of a measured speed-up over the FLOP ratio.
_MOST_MEASURED, _LEAST_EFFICIENCY = 1.10, 0.9
# Pipelines that are enabled for it.
_MEASURED_ROUNDS = 3
# A method whose fastest setting is this part below a speed is not judged at it.
_FAR_BELOW = 0.1
_SLOW = "does not reach"
# By how many decibels ours is to be ahead in the end.
_GOAL_DB = 1.5


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "soda",
        __doc__.splitlines()[0],
        {
            "model": (str, "", "", "folder of a DiTPipeline, instead of the zoo's"),
            "device": (str, "cpu", "cpu", "cpu or cuda"),
            "steps": (int, 50, 30, "DDIM steps"),
            "samples": (
                int,
                32,
                8,
                "samples that quality is measured on; a quick run has no use for them",
            ),
            "repeats": (int, 5, 5, "timed rounds of the large model"),
            "layers": (int, 0, 1, "layers of the large model; 0: 4 of its 28, on a GPU all"),
            "only": (str, "", "", "pattern of the methods' names, for a part of the comparison"),
        },
    )
    if bench.options["device"] == "cpu":
        # CPU time of one thread is work; that of several is also waiting for each other. numpy's library has its own,
        # which go on waiting for some 50 ms after each product.
        torch.set_num_threads(1)
        blas: Any = importlib.import_module("threadpoolctl")  # it has no types
        blas.threadpool_limits(1)
    warnings.filterwarnings("ignore", module="(torch|diffusers|cache_dit)")
    _quiet()
    folder = _model_folder(bench.options["model"])
    if folder is None:
        print(f"the zoo has no {ZOO_MODEL} in this version: name a DiTPipeline with --model")
    elif bench.quick:
        workload = load(folder, device=bench.options["device"], steps=bench.options["steps"])
        _check(bench, workload)
    else:
        workload = load(folder, device=bench.options["device"], steps=bench.options["steps"])
        _check(bench, workload)
        _compare(bench, workload)
    _compare_large(bench)
    if bench.quick:
        print(bench.take_recorded_bars(_recorded_bars(), RECORD))
    bench.finish(["torch", "diffusers", "cache-dit", "genaccel"])


def _quiet() -> None:
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    # A calibration run says that it is one.
    logging.getLogger("genaccel").setLevel(logging.ERROR)


def _model_folder(given: str) -> Path | None:
    if given:
        return Path(given)
    try:
        return zoo.path(ZOO_MODEL)
    except UnknownModelError:
        return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load(folder: Path, *, device: str, steps: int) -> Workload:
    """A ``DiTPipeline`` on disk, with DDIM."""
    from diffusers import DDIMScheduler, DiTPipeline

    dtype = torch.float32 if device == "cpu" else torch.float16
    pipeline = load_pipeline(str(folder), pipeline_class=DiTPipeline, device=device, dtype=dtype)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    # A model may have learned fewer classes than it has room for.
    learned = sorted(set(pipeline.labels.values()))
    return Workload(
        ZOO_MODEL,
        pipeline,
        num_steps=steps,
        guidance=4.0,  # the pipeline's default
        classes=learned or range(pipeline.transformer.config.num_embeds_ada_norm),
        batch_size=_BATCH,
    )


def _check(bench: Bench, workload: Workload) -> None:
    """Check on one pipeline whether acceleration is exact, and add the cost of its first run over a plain one."""
    target = TARGETS[0]
    checks = check_pipeline(workload, speedup=target, runs=2)
    rule = run_by_rule(workload, speedup=target)
    part = f"{workload.name}, one pipeline, {workload.num_steps} steps"
    for name, run in (
        (f"{OURS}, speed-up {target:g}", checks.run),
        (f"{OURS}, first_run='plan'", rule),
    ):
        plain_cpu, own_cpu = checks.plain.cpu, run.cost.cpu
        bench.tables.setdefault(part, []).append(
            {
                "method": name,
                "plan": run.plan,
                "computed_steps": run.schedule.count("C"),
                "flop_ratio": run.flop_ratio,
                "cpu_speedup": plain_cpu / own_cpu if plain_cpu and own_cpu else None,
                "wall_speedup": checks.plain.wall / run.cost.wall,
                "schedule": run.schedule,
            }
        )
    for name, holds in checks.exact().items():
        bench.bar(name, float(holds), 1.0)
    measured = checks.measured_over_plain
    if not bench.quick:
        measured = measured_over_plain(workload, rounds=_MEASURED_ROUNDS)
    bench.bar("measured_run_over_plain", measured, _MOST_MEASURED, higher_is_better=False)
    if bench.quick:
        efficiency = checks.speedup / checks.run.flop_ratio
        bench.bar(f"measured_over_flop_ratio_{target:g}x", efficiency, _LEAST_EFFICIENCY)


def _compare(bench: Bench, workload: Workload) -> None:
    """Compare all methods at 2x and 3x, and run the ablation of ours."""
    batches = bench.options["samples"] // workload.batch_size
    if batches < 2:
        raise ValueError(f"samples must be at least {2 * workload.batch_size}")
    judge = Judge(workload, batches=batches)
    for note in judge.notes:
        print(note)
    print(
        f"{workload.name}: DDIM {workload.num_steps} steps, batch {workload.batch_size}, guidance "
        f"{workload.guidance:g}, {judge.num_samples} samples on {workload.device}, {torch.get_num_threads()} thread"
    )
    decoding = _seconds_of_decoding(workload)
    ours = Ours(workload, batches=_CALIBRATION_BATCHES)
    methods = our_methods(ours) + peers(workload)
    methods = [m for m in methods if re.search(bench.options["only"], m.name)]
    search = Search(workload)
    for target in TARGETS:
        outcomes, failures, plain = _outcomes_at(search, judge, methods, target, batches - 1)
        part = f"{workload.name}, {target:g}x"
        reaching = [o for o in outcomes if _reaches(o, target)]
        for outcome in outcomes:
            note = outcome.trial.method.note or _note(outcome)
            if outcome not in reaching:
                note = f"{_SLOW} {target:g}x; {note}".rstrip("; ")
            bench.rows.append(_row(part, outcome, note=note, plain=plain, decoding=decoding))
        tuned = _tuned(ours, reaching)
        if tuned is not None:
            row = _row(part, tuned, note="", plain=plain, decoding=decoding)
            setting = f"{row['method']}: {row['setting']}"
            bench.rows.append({**row, "method": f"{OURS}, tuned", "setting": setting})
        bench.rows.extend(_failed_row(part, failure) for failure in failures)
        _add_comparison(bench, outcomes, reaching, target)
        # What does not reach a speed does not reach a higher one.
        reached = {o.trial.method.name for o in reaching}
        methods = [m for m in methods if m.name in reached]
    if not bench.options["only"]:
        _compare_parts(bench, search, judge, ours, (batches - 1) // 2)


def _outcomes_at(
    search: Search, judge: Judge, methods: Sequence[Method], target: float, rounds: int
) -> tuple[list[Outcome[Quality]], list[Failure], float]:
    """Each method with its setting for a speed, and the seconds of a plain run."""
    chosen: list[Trial] = []
    failures: list[Failure] = []
    for method in methods:
        found = search.choose(method, target)
        if isinstance(found, Trial) and (found.speedup or 0) < target * (1 - _FAR_BELOW):
            reason = f"its fastest setting, {found.setting.label}, has {found.speedup or 0:.2f}x"
            found = Failure(method, f"{_SLOW} {target:g}x: {reason}")
        if isinstance(found, Failure):
            failures.append(found)
            _say(f"{target:g}x  {method.name}: {found.reason}")
            continue
        chosen.append(found)
        _say(
            f"{target:g}x  {method.name}: {found.setting.label}, FLOPs {found.flop_ratio:.2f}x, "
            f"{found.speedup or 0:.2f}x"
        )
    measured = run_rounds(search.workload, chosen, rounds=rounds, judge=judge)
    outcomes = []
    for outcome in measured.outcomes:
        following = None if _reaches(outcome, target) else search.next_faster(outcome.trial)
        if following is not None:
            # It had the speed when it was chosen, on other samples.
            again = run_rounds(search.workload, [following], rounds=rounds, judge=judge)
            outcome = again.outcomes[0]
        outcomes.append(outcome)
        assert outcome.quality is not None
        _say(
            f"{target:g}x  {outcome.trial.method.name}: {outcome.speedup:.2f}x, wall {outcome.wall_speedup:.2f}x, "
            f"{outcome.quality.psnr:.2f} dB, ST-LPIPS {outcome.quality.st_lpips or 0:.4f}  {_note(outcome)}"
        )
    return outcomes, failures, measured.plain.seconds


def _seconds_of_decoding(workload: Workload) -> float:
    """Seconds of decoding a batch."""
    latents = workload.sample(workload.plain, workload.calibration_samples(0), num_steps=1)
    return min(
        cost_of_call(lambda: workload.images(latents), workload.device).seconds for _ in range(2)
    )


def _reaches(outcome: Outcome[Quality], target: float) -> bool:
    """Whether an outcome has the target speed. The choice of the setting measured it before, and the rounds do once more:
    others get twice the slack for that, ours does not."""
    slack = SLACK if outcome.trial.method.role == "ours" else 2 * SLACK
    return outcome.speedup >= target * (1 - slack)


def _note(outcome: Outcome[Quality]) -> str:
    attached = outcome.trial.attached
    return "" if attached is None else attached.note


def _tuned(ours: Ours, outcomes: Sequence[Outcome[Quality]]) -> Outcome[Quality] | None:
    """Our outcome whose setting is closest on samples for calibration: those of the test choose nothing."""
    candidates = [o for o in outcomes if o.trial.method.may_be_tuned and o.trial.attached]
    errors = {id(o): ours.error(o.trial.attached) for o in candidates if o.trial.attached}
    return min(candidates, key=lambda o: errors[id(o)], default=None)


def _add_comparison(
    bench: Bench,
    outcomes: Sequence[Outcome[Quality]],
    reaching: Sequence[Outcome[Quality]],
    target: float,
) -> None:
    """Ours against each other method sample by sample, and against the best of those that are as fast."""
    mine = next((o for o in outcomes if o.trial.method.role == "ours"), None)
    pairs: dict[str, Against] = {}
    if mine is not None and mine.quality is not None:
        pairs = {
            o.trial.method.name: against(mine.quality, o.quality)
            for o in outcomes
            if o is not mine and o.quality is not None
        }
    reached = {o.trial.method.name for o in reaching}
    bench.tables[f"against {target:g}x"] = [
        {
            "method": name,
            "psnr_difference": pair.psnr.mean,
            "psnr_low": pair.psnr.low,
            "psnr_high": pair.psnr.high,
            "st_lpips_ratio": None if pair.st_lpips is None else pair.st_lpips.mean,
            "st_lpips_low": None if pair.st_lpips is None else pair.st_lpips.low,
            "st_lpips_high": None if pair.st_lpips is None else pair.st_lpips.high,
            "note": "" if name in reached else f"{_SLOW} {target:g}x",
        }
        for name, pair in pairs.items()
    ]
    others = {o.trial.method.name for o in reaching if o.trial.method.role == "other"}
    is_compared = mine is not None and mine in reaching
    _add_bars(bench, mine, {n: p for n, p in pairs.items() if n in others and is_compared}, target)


def _add_bars(
    bench: Bench, mine: Outcome[Quality] | None, others: Mapping[str, Against], target: float
) -> None:
    name = f"{target:g}x"
    if others:
        best, psnr = nearest({n: p.psnr for n, p in others.items()})
        print(f"{name}: of the others {best} has the best PSNR")
        bench.bar(f"psnr_over_best_other_{name}_db", psnr.mean, 0.0, interval=(psnr.low, psnr.high))
        bench.bar(f"psnr_over_best_other_{name}_goal_db", psnr.mean, _GOAL_DB)
    else:
        bench.bar(f"psnr_over_best_other_{name}_db", None, 0.0)
        bench.bar(f"psnr_over_best_other_{name}_goal_db", None, _GOAL_DB)
    ratios = {n: p.st_lpips for n, p in others.items() if p.st_lpips is not None}
    bar = f"best_other_st_lpips_over_ours_{name}"
    if ratios:
        _, ratio = nearest(ratios)
        bench.bar(bar, ratio.mean, 1.0, interval=(ratio.low, ratio.high))
    else:
        bench.bar(bar, None, 1.0)
    bench.bar(f"speedup_{name}", None if mine is None else mine.speedup, target * (1 - SLACK))
    bench.bar(
        f"measured_over_flop_ratio_{name}",
        None if mine is None else mine.efficiency,
        _LEAST_EFFICIENCY,
    )


def _recorded_bars() -> dict[str, float]:
    """Targets of the bars that a quick run does not measure, by name."""
    targets: dict[str, float] = {}
    for target in TARGETS:
        name = f"{target:g}x"
        targets[f"psnr_over_best_other_{name}_db"] = 0.0
        targets[f"psnr_over_best_other_{name}_goal_db"] = _GOAL_DB
        targets[f"best_other_st_lpips_over_ours_{name}"] = 1.0
        targets[f"speedup_{name}"] = target * (1 - SLACK)
    return targets


def _compare_parts(bench: Bench, search: Search, judge: Judge, ours: Ours, rounds: int) -> None:
    """Run the ablation at one FLOP ratio, so that quality is all that differs."""
    part = f"parts, {_PARTS_SPEEDUP:g}x FLOPs"
    trials: list[Trial] = []
    for method in ablation_methods(ours, _PARTS_SPEEDUP):
        found = search.choose(method, 0.0)
        if isinstance(found, Failure):
            bench.rows.append(_failed_row(part, found))
        else:
            trials.append(found)
    for outcome in run_rounds(search.workload, trials, rounds=rounds, judge=judge).outcomes:
        assert outcome.quality is not None
        _say(f"{part}  {outcome.trial.method.name}: {outcome.quality.psnr:.2f} dB")
        bench.rows.append(_row(part, outcome, note=outcome.trial.method.note))


def _compare_large(bench: Bench) -> None:
    """CPU time against FLOPs of a model of DiT-XL/2's width."""
    device = bench.options["device"]
    on_cpu = device == "cpu"
    workload, note = large_workload(
        device,
        layers=bench.options["layers"] or (4 if on_cpu else 0),
        steps=(2 if bench.quick else 4) if on_cpu else 50,
    )
    trials: list[Trial] = []
    for found in large_trials(workload, is_quick=bench.quick):
        if isinstance(found, Failure):
            bench.rows.append(_failed_row(workload.name, found))
        else:
            trials.append(found)
    measured: Rounds[Quality] = run_rounds(workload, trials, rounds=bench.options["repeats"])
    outcomes = measured.outcomes
    for outcome in outcomes:
        bench.rows.append(_row(workload.name, outcome, note=note))
    mine = [o for o in outcomes if o.trial.method.role == "ours"]
    bench.bar(
        "measured_over_flop_ratio_xl",
        min((o.efficiency for o in mine), default=None),
        _LEAST_EFFICIENCY,
    )
    for outcome in mine:
        if outcome.trial.attached is not None:
            costs = cost_of_steps(workload, outcome.trial.attached)
            print(f"{workload.name}, {note}: {outcome.trial.method.name}: {costs}")


def _row(
    part: str,
    outcome: Outcome[Quality],
    *,
    note: str,
    plain: float | None = None,
    decoding: float | None = None,
) -> dict[str, Any]:
    quality, speedup = outcome.quality, outcome.speedup
    with_decoding = None
    if plain and decoding:
        with_decoding = (plain + decoding) / (plain / speedup + decoding)
    return {
        "part": part,
        "method": outcome.trial.method.name,
        "setting": outcome.trial.setting.label,
        "flop_ratio": outcome.flop_ratio,
        "cpu_speedup": outcome.cpu_speedup,
        "wall_speedup": outcome.wall_speedup,
        "with_decoding": with_decoding,
        "psnr": None if quality is None else quality.psnr,
        "st_lpips": None if quality is None else quality.st_lpips,
        "fd_mobilenet_v2": None if quality is None else quality.fd,
        "note": note,
    }


def _failed_row(part: str, failure: Failure) -> dict[str, Any]:
    names = ("flop_ratio", "cpu_speedup", "wall_speedup", "with_decoding", "psnr", "st_lpips")
    return {
        "part": part,
        "method": failure.method.name,
        "setting": "",
        **dict.fromkeys(names),
        "fd_mobilenet_v2": None,
        "note": failure.reason
        if failure.reason.startswith(_SLOW)
        else f"does not run: {failure.reason}",
    }


if __name__ == "__main__":
    main()
