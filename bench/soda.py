# SPDX-License-Identifier: Apache-2.0
"""SODA side by side with other caches for diffusion transformers, and with fewer steps, at equal measured speed.

    python bench/soda.py [--quick] [--json FILE] [--model DIR] [--device cpu|cuda]

All methods sample the same classes from the same noise. For each the slowest setting that reaches 2x and 3x is
chosen; those are then timed in turn with the plain pipeline. A quick run chooses by FLOPs instead. Of ours, runs of
blocks or modules, the one that is closer on samples for calibration is held against the bars. Speed-ups and
FLOP ratios are of sampling, without the decoder; "with decoding" has it. PSNR, ST-LPIPS and FD are to the
unaccelerated samples. Where a method does not reach a speed, its row is of the fastest it does, and is not compared.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from bench.soda_ours import Ours, ablation_methods, alternating, our_methods
from bench.soda_peers import peers
from bench.soda_quality import Judge, Quality
from bench.soda_workload import (
    SLACK,
    Failure,
    Method,
    Search,
    Setting,
    Trial,
    Workload,
    measure_speedups,
)
from genaccel import zoo
from genaccel.errors import UnknownModelError

ZOO_MODEL = "landscapes-dit"
_XL_HEADS, _XL_HEAD_DIM, _XL_LATENT = 16, 72, 32
# Wall time and FLOPs are compared at this batch or more: below it a GPU waits for the host.
_BATCH = 4
# A quick run is for the parts of the benchmark, not for a ranking: ours, the simple ways, and one peer.
_ONLY_IN_FULL = (
    "modules",
    "mixed",
    "order 2",
    "lite",
    "BlockCache",
    "MagCache",
    "PAB",
    "FasterCache",
    "DBCache",
)
# Where schedules and forecasters differ more than at 2x.
_PARTS_SPEEDUP = 3.0


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "soda",
        __doc__.splitlines()[0],
        {
            "model": (str, "", "", "folder of a DiTPipeline, instead of the zoo's"),
            "device": (str, "cpu", "cpu", "cpu or cuda"),
            "steps": (int, 50, 8, "DDIM steps"),
            "samples": (int, 16, 4, "samples that quality is measured on"),
            "repeats": (int, 3, 1, "timed rounds"),
            "layers": (int, 0, 1, "layers of the large model; 0: 4 of its 28, on a GPU all"),
        },
    )
    warnings.filterwarnings("ignore", module="(torch|diffusers|cache_dit)")
    _quiet()
    folder = _model_folder(bench.options["model"])
    if folder is None:
        print(f"the zoo has no {ZOO_MODEL} in this version: name a DiTPipeline with --model")
    else:
        _compare(bench, folder)
    _compare_large(bench)
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


def _compare(bench: Bench, folder: Path) -> None:
    """All methods at 2x and 3x, and what each part of ours adds."""
    workload = _load(bench, folder)
    judge = Judge(workload, batches=max(1, bench.options["samples"] // workload.batch_size))
    for note in judge.notes:
        print(note)
    print(
        f"{workload.name}: {folder.name}, DDIM {workload.num_steps} steps, batch {workload.batch_size}, guidance "
        f"{workload.guidance:g}, {judge.num_samples} samples on {workload.device}"
    )
    ours = Ours(workload, batches=1 if bench.quick else 4)
    methods = our_methods(ours) + peers(workload)
    if bench.quick:
        methods = [_coarser(m) for m in methods if not any(n in m.name for n in _ONLY_IN_FULL)]
    search = Search(workload, is_timed=not bench.quick)
    for target in (2.0,) if bench.quick else (2.0, 3.0):
        _compare_at(bench, search, judge, methods, target, ours)
    if not bench.quick:
        _compare_parts(bench, search, judge, ours, _PARTS_SPEEDUP)


def _load(bench: Bench, folder: Path) -> Workload:
    from diffusers import DDIMScheduler, DiTPipeline

    device = bench.options["device"]
    dtype = torch.float32 if device == "cpu" else torch.float16
    pipeline: Any = DiTPipeline.from_pretrained(folder, dtype=dtype).to(device)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    names = getattr(pipeline.config, "id2label", None) or range(
        pipeline.transformer.config.num_embeds_ada_norm
    )
    return Workload(
        ZOO_MODEL,
        pipeline,
        num_steps=bench.options["steps"],
        guidance=4.0,  # the pipeline's default
        num_classes=len(names),
        batch_size=_BATCH,
    )


def _coarser(method: Method) -> Method:
    """A few settings of each ladder."""
    ladders = tuple(
        ladder if ladder[0].expected is not None else ladder[1::3] for ladder in method.ladders
    )
    return Method(
        name=method.name,
        attach=method.attach,
        ladders=ladders,
        is_ours=method.is_ours,
        note=method.note,
    )


def _compare_at(
    bench: Bench, search: Search, judge: Judge, methods: list[Method], target: float, ours: Ours
) -> None:
    chosen: list[Trial] = []
    failures: list[Failure] = []
    for method in methods:
        found = search.choose(method, target)
        if isinstance(found, Failure):
            failures.append(found)
            _say(f"{target:g}x  {method.name}: {found.reason}")
            continue
        chosen.append(found)
        _say(f"{target:g}x  {method.name}: {found.setting.label}, FLOPs {found.flop_ratio:.2f}x")
    workload, repeats = search.workload, bench.options["repeats"]
    plain, decoding = measure_speedups(workload, chosen, repeats=repeats)
    if search.is_timed:
        # The choice was made by one run each.
        for index, trial in enumerate(chosen):
            if (trial.speedup or 0) < target * (1 - SLACK):
                faster = search.next_faster(trial)
                if faster is not None:
                    measure_speedups(workload, [faster], repeats=repeats)
                    chosen[index] = faster
    part = f"{workload.name}, {target:g}x"
    rows: list[tuple[Trial, Quality]] = []
    for trial in chosen:
        assert trial.attached is not None
        quality = judge(trial.attached, trial.latents)
        rows.append((trial, quality))
        _say(
            f"{target:g}x  {trial.method.name}: {trial.speedup or 0:.2f}x, {quality.psnr:.2f} dB, ST-LPIPS "
            f"{quality.st_lpips or 0:.4f}  {trial.attached.note}"
        )
        note = trial.method.note or trial.attached.note
        if not _reaches(trial, target, is_timed=search.is_timed):
            note = f"does not reach {target:g}x; {note}".rstrip("; ")
        bench.rows.append(
            _row(part, trial, quality, note=note, plain_seconds=plain, decoding_seconds=decoding)
        )
    bench.rows.extend(_failed_row(part, failure) for failure in failures)
    _add_bars(bench, rows, target, ours, is_timed=search.is_timed)


def _reaches(trial: Trial, target: float, *, is_timed: bool) -> bool:
    # Twice the slack: the choice had it once, and the last measurement is another.
    speed = trial.speedup or 0.0 if is_timed else trial.flop_ratio
    return speed >= target * (1 - 2 * SLACK)


def _add_bars(
    bench: Bench,
    rows: list[tuple[Trial, Quality]],
    target: float,
    ours: Ours,
    *,
    is_timed: bool,
) -> None:
    """Ours against the best of all others that are as fast.

    Of ours the one that is closer on samples for calibration: those of the test choose nothing.
    """
    own = [row for row in rows if row[0].method.is_ours]
    own = [row for row in own if _reaches(row[0], target, is_timed=is_timed)] or own
    mine = min(own, key=lambda row: _error(ours, row[0])) if own else None
    others = [q for t, q in rows if not t.method.is_ours and _reaches(t, target, is_timed=is_timed)]
    name = f"{target:g}x"
    trial, quality = (None, None) if mine is None else mine
    is_compared = trial is not None and _reaches(trial, target, is_timed=is_timed)
    compared = quality if is_compared else None
    best_psnr = max((q.psnr for q in others), default=None)
    bench.bar(
        f"psnr_over_best_other_{name}_db",
        None if compared is None or best_psnr is None else compared.psnr - best_psnr,
        0.0,
    )
    best_lpips = min((q.st_lpips for q in others if q.st_lpips is not None), default=None)
    own_lpips = None if compared is None else compared.st_lpips
    bench.bar(
        f"best_other_st_lpips_over_ours_{name}",
        None if own_lpips is None or best_lpips is None else best_lpips / own_lpips,
        1.0,
    )
    bench.bar(f"speedup_{name}", None if trial is None else trial.speedup, target * (1 - SLACK))
    bench.bar(
        f"measured_over_flop_ratio_{name}", None if trial is None else _efficiency(trial), 0.9
    )


def _error(ours: Ours, trial: Trial) -> float:
    assert trial.attached is not None
    return ours.error(trial.attached)


def _efficiency(trial: Trial) -> float | None:
    return None if trial.speedup is None else trial.speedup / trial.flop_ratio


def _compare_parts(bench: Bench, search: Search, judge: Judge, ours: Ours, speedup: float) -> None:
    """The ablation: one FLOP ratio, so that quality is all that differs."""
    part = f"parts, {speedup:g}x FLOPs"
    trials: list[Trial] = []
    for method in ablation_methods(ours, speedup):
        found = search.choose(method, 0.0)
        if isinstance(found, Failure):
            bench.rows.append(_failed_row(part, found))
        else:
            trials.append(found)
    measure_speedups(search.workload, trials, repeats=1)
    for trial in trials:
        assert trial.attached is not None
        bench.rows.append(
            _row(part, trial, judge(trial.attached, trial.latents), note=trial.method.note)
        )


def _compare_large(bench: Bench) -> None:
    """Wall time against FLOPs of a model of DiT-XL/2's width."""
    workload, note = _large_workload(bench)
    ours = Ours(workload, batches=1)
    methods = alternating(ours, ("taylor1",) if bench.quick else ("reuse", "taylor1"))
    methods += [
        Method(name=m.name, attach=m.attach, ladders=((_two_fold(m),),), note=m.note)
        for m in peers(workload)
        if m.name == "diffusers TaylorSeer, order 1" and not bench.quick
    ]
    search = Search(workload, is_timed=False)
    trials = []
    part = "dit-xl-2-sized"
    for method in methods:
        found = search.choose(method, 0.0)
        if isinstance(found, Failure):
            bench.rows.append(_failed_row(part, found))
        else:
            trials.append(found)
    measure_speedups(workload, trials, repeats=bench.options["repeats"])
    for trial in trials:
        bench.rows.append(_row(part, trial, None, note=note))
    mine = [_efficiency(t) or 0.0 for t in trials if t.method.is_ours]
    bench.bar("measured_over_flop_ratio_xl", min(mine, default=None), 0.9)


def _two_fold(method: Method) -> Setting:
    """Of TaylorSeer: the setting that is nearest to every second step."""
    return next(s for s in reversed(method.ladders[0]) if s.values["interval"] == 2)


def _large_workload(bench: Bench) -> tuple[Workload, str]:
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    device = bench.options["device"]
    on_cpu = device == "cpu"
    layers = bench.options["layers"] or (4 if on_cpu else 28)
    torch.manual_seed(0)
    transformer: Any = DiTTransformer2DModel(
        num_layers=layers,
        num_attention_heads=_XL_HEADS,
        attention_head_dim=_XL_HEAD_DIM,
        sample_size=_XL_LATENT,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_embeds_ada_norm=1000,
    )
    transformer = transformer.eval().to(device, torch.float32 if on_cpu else torch.float16)
    pipeline = DiTPipeline(transformer, None, DDIMScheduler(clip_sample=False))
    # A CPU takes seconds for a step of four layers and no guidance.
    steps = (2 if bench.quick else 8) if on_cpu else 50
    guidance = 1.0 if on_cpu else 4.0
    workload = Workload(
        "dit-xl-2-sized",
        pipeline,
        num_steps=steps,
        guidance=guidance,
        num_classes=1000,
        batch_size=_BATCH,
    )
    note = f"random weights, {layers} of 28 layers, {steps} steps, batch {_BATCH}" + (
        "" if guidance > 1 else ", no guidance"
    )
    return workload, note


def _row(
    part: str,
    trial: Trial,
    quality: Quality | None,
    *,
    note: str,
    plain_seconds: float | None = None,
    decoding_seconds: float | None = None,
) -> dict[str, Any]:
    speedup = trial.speedup
    with_decoding: float | str = ""
    if plain_seconds and decoding_seconds and speedup:
        with_decoding = (plain_seconds + decoding_seconds) / (
            plain_seconds / speedup + decoding_seconds
        )
    return {
        "part": part,
        "method": trial.method.name,
        "setting": trial.setting.label,
        "flop_ratio": trial.flop_ratio,
        "speedup": "" if speedup is None else speedup,
        "with_decoding": with_decoding,
        "psnr": "" if quality is None else quality.psnr,
        "st_lpips": "" if quality is None or quality.st_lpips is None else quality.st_lpips,
        "fd_mobilenet_v2": "" if quality is None or quality.fd is None else quality.fd,
        "note": note,
    }


def _failed_row(part: str, failure: Failure) -> dict[str, Any]:
    names = ("setting", "flop_ratio", "speedup", "with_decoding", "psnr", "st_lpips")
    return {
        "part": part,
        "method": failure.method.name,
        **dict.fromkeys(names, ""),
        "fd_mobilenet_v2": "",
        "note": f"does not run: {failure.reason}",
    }


if __name__ == "__main__":
    main()
