# SPDX-License-Identifier: Apache-2.0
"""Whole pipelines on a GPU: SODA beside other caches at equal FLOPs, eager, compiled and in CUDA graphs; and the codec.

    python bench/gpu_end_to_end.py [--quick] [--json FILE] [--only SUBJECT|codec] [--batches 1,4] [--modes eager,compiled]

Random weights at true sizes in bf16: speed does not depend on their values, quality does and is not measured here
(``bench/soda.py``). For each method the slowest setting with 2x and 3x fewer FLOPs is run in turn with the plain model in
the same mode. Without text encoders and decoder.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._gpu.methods import Soda, compile_for, other_methods
from bench._gpu.subjects import MODES, SUBJECTS, Mode, PipelineWorkload, Subject
from bench.harness import Bench
from genaccel.sampling.costs import seconds_of_call
from genaccel.sampling.methods import Method
from genaccel.sampling.rounds import Rounds, run_rounds
from genaccel.sampling.speed_search import SLACK, Failure, Search, Trial

NO_CUDA = "bench/gpu_end_to_end.py needs a CUDA device, and this PyTorch sees none"
TARGETS = (2.0, 3.0)
SPEEDUP_OVER_FLOPS = 0.9
# CoD-Lite on an A100; height, width, milliseconds to encode and to decode.
CODEC_SIZES = ((512, 768), (1080, 1920))
CODEC_ANCHOR_MS = {"encode": 16.0, "decode": 24.0}
_TRAINING_BATCH, _TRAINING_SIDE = 16, 256


def subject_rows(
    subject: Subject,
    device: torch.device,
    dtype: torch.dtype,
    *,
    batch_size: int,
    modes: Sequence[Mode],
    repeats: int,
    num_steps: int | None = None,
    targets: Sequence[float] = TARGETS,
) -> list[dict[str, Any]]:
    """All methods and modes of one model at one batch size.

    Args:
        subject: The model.
        device: Where it runs.
        dtype: Of its weights.
        batch_size: Samples in a call.
        modes: Of ``MODES``; the first one must be "eager", where FLOPs are counted.
        repeats: Timed rounds.
        num_steps: Instead of the subject's.
        targets: Ratios of FLOPs.
    """
    pristine = subject.build(device, dtype)

    def workload() -> PipelineWorkload:
        return PipelineWorkload(subject, pristine, batch_size=batch_size, num_steps=num_steps)

    eager = workload()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as plans:
        soda = Soda(eager, tuple(targets), Path(plans))
        methods = [soda.method, *other_methods(eager)]
        search = Search(eager, is_timed=False)
        for target in targets:
            found = [_choose(search, method, target) for method in methods]
            rows += [_failed(eager, "eager", target, f) for f in found if isinstance(f, Failure)]
            trials = [trial for trial in found if isinstance(trial, Trial)]
            for mode in modes:
                place = eager if mode == "eager" else workload()
                rows += _mode_rows(place, soda, trials, mode, target, repeats)
    return rows


def _choose(search: Search, method: Method, target: float) -> Trial | Failure:
    """The slowest setting with so many fewer FLOPs, or the fastest of all; what a setting promises is not all it does."""
    found = search.choose(method, target)
    while isinstance(found, Trial) and found.flop_ratio < target * (1 - SLACK):
        faster = search.next_faster(found)
        if faster is None:
            break
        found = faster
    return found


def _mode_rows(
    workload: PipelineWorkload,
    soda: Soda,
    chosen: Sequence[Trial],
    mode: Mode,
    target: float,
    repeats: int,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    trials: list[Trial] = []
    try:
        compile_for(workload.plain, mode, None)
        workload.sample(workload.plain, workload.test_samples(0))
    except Exception as error:  # a mode that a model does not run in
        return [_failed(workload, mode, target, Failure.of(m.method, error)) for m in chosen]
    for trial in chosen:
        try:
            trials.append(trial if mode == "eager" else _in_mode(workload, soda, trial, mode))
            # One at a time: what a graph gave is only there until the next replay.
            measured: Rounds[None] = run_rounds(
                workload, trials[-1:], rounds=repeats, counts_flops=False
            )
            trials[-1].speedup = measured.outcomes[0].speedup
        except Exception as error:  # other people's code, in a mode that it may not know
            trials = [t for t in trials if t.method is not trial.method]
            rows.append(_failed(workload, mode, target, Failure.of(trial.method, error)))
    seconds = statistics.median(
        seconds_of_call(
            lambda: workload.sample(workload.plain, workload.test_samples(0)), workload.device
        )
        for _ in range(repeats)
    )
    rows += [_row(workload, mode, target, trial, seconds) for trial in trials]
    torch.compiler.reset()
    return rows


def _in_mode(workload: PipelineWorkload, soda: Soda, trial: Trial, mode: Mode) -> Trial:
    """The same setting on a new copy, compiled and warm."""
    attached = trial.method.attach(workload.copy(), trial.setting.values)
    compile_for(attached, mode, soda.handle(attached) if trial.method.role == "ours" else None)
    for _ in range(2):
        workload.sample(attached, workload.test_samples(0))
    return Trial(trial.method, trial.setting, trial.flop_ratio, attached=attached)


def _row(
    workload: PipelineWorkload, mode: Mode, target: float, trial: Trial, plain_seconds: float
) -> dict[str, Any]:
    speedup = trial.speedup
    return {
        **_failed(workload, mode, target, Failure(trial.method, "")),
        "setting": trial.setting.label,
        "plain_ms_a_step": 1e3 * plain_seconds / workload.num_steps,
        "flop_ratio": trial.flop_ratio,
        "speedup": speedup,
        "speedup_over_flops": None if speedup is None else speedup / trial.flop_ratio,
        "note": workload.subject.note,
    }


def _failed(
    workload: PipelineWorkload, mode: Mode, target: float, failure: Failure
) -> dict[str, Any]:
    numbers = ("setting", "plain_ms_a_step", "flop_ratio", "speedup", "speedup_over_flops")
    return {
        "subject": workload.name,
        "batch": workload.batch_size,
        "mode": mode,
        "target": target,
        "method": failure.method.name,
        **dict.fromkeys(numbers),
        "note": f"does not run: {failure.reason}",
    }


def add_bars(bench: Bench, rows: Sequence[dict[str, Any]]) -> None:
    """Ours, at the largest batch: wall time must follow FLOPs."""
    largest = max((row["batch"] for row in rows), default=0)
    for row in rows:
        if row["batch"] == largest and row["method"] == "genaccel SODA":
            name = f"{row['subject']}_batch_{largest}_{row['target']:g}x_{row['mode']}"
            bench.bar(f"{name}_speedup_over_flops", row["speedup_over_flops"], SPEEDUP_OVER_FLOPS)


def codec_rows(
    device: torch.device, sizes: Sequence[tuple[int, int]], repeats: int
) -> list[dict[str, Any]]:
    """Encoding and decoding with the default model, from an array to bytes and back, with either kind of tables.

    Args:
        device: Where the networks run.
        sizes: Heights and widths.
        repeats: Timed calls, after one that is not.
    """
    from genaccel.codec import ImageCodec
    from genaccel.codec.encoder.encode_options import EncodeOptions

    codec = ImageCodec.from_pretrained(device=device)
    rows = []
    for (height, width), static in itertools.product(sizes, (False, True)):
        image = _photograph_like(height, width)
        options = EncodeOptions(static_tables=static)
        data = codec.encode(image, options)
        calls: dict[str, Callable[[], object]] = {
            "encode": functools.partial(codec.encode, image, options),
            "decode": functools.partial(codec.decode, data),
        }
        row: dict[str, Any] = {
            "image": f"{width}x{height}",
            "tables": "static" if static else "entropy model",
            "bytes": len(data),
        }
        for name, call in calls.items():
            call()
            seconds = statistics.median(seconds_of_call(call, device) for _ in range(repeats))
            row[f"{name}_ms"] = 1e3 * seconds
        rows.append(row)
    return rows


def _photograph_like(height: int, width: int) -> np.ndarray[Any, Any]:
    """Smooth shapes and some grain: nothing that a codec could leave out."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / a + columns / b) for a, b in ((97, 61), (43, 149), (211, 29))]
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return (128 + 90 * np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8)


def training_steps_per_second(
    device: torch.device, *, batch_size: int, side: int, repeats: int
) -> float:
    """Steps of the codec's first stage without its adversary: forward, backward, AdamW; bf16 on a GPU."""
    from genaccel.codec import ImageCodec

    model = ImageCodec.from_pretrained(device=device).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.rand(batch_size, 3, side, side, device=device) * 2 - 1

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = model(images)
            loss = (output.reconstruction - images).square().mean() + output.commitment_loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step()
    return 1 / statistics.median(seconds_of_call(step, device) for _ in range(repeats))


def codec_bars(bench: Bench, rows: Sequence[dict[str, Any]]) -> None:
    """The first row is of the anchor's size, with the entropy model."""
    for name, target in CODEC_ANCHOR_MS.items():
        bench.bar(
            f"codec_{name}_{rows[0]['image']}_ms",
            rows[0][f"{name}_ms"],
            target,
            higher_is_better=False,
        )


def _quiet() -> None:
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="(torch|diffusers|cache_dit|genaccel)")


def main() -> int:
    """Run the benchmark; 2 without a GPU."""
    bench = Bench.from_command_line(
        "gpu_end_to_end",
        (__doc__ or "").splitlines()[0],
        {
            "only": (str, "", "", f"one of {', '.join(SUBJECTS)}, codec"),
            "batches": (str, "1,4", "4", "batch sizes"),
            "modes": (str, ",".join(MODES), "eager", "of eager, compiled, graphs"),
            "repeats": (int, 3, 1, "timed rounds"),
        },
    )
    only, modes = bench.options["only"], bench.options["modes"].split(",")
    if only not in ("", "codec", *SUBJECTS) or modes[0] != "eager" or not set(modes) <= set(MODES):
        print("unknown --only, or --modes that do not begin with eager", file=sys.stderr)
        return 1
    if not torch.cuda.is_available():
        print(NO_CUDA, file=sys.stderr)
        return 2
    _quiet()
    device = torch.device("cuda")
    for name in SUBJECTS if only == "" else {only} & set(SUBJECTS):
        for batch_size in map(int, bench.options["batches"].split(",")):
            print(f"{name}, batch {batch_size}", file=sys.stderr, flush=True)
            bench.rows += subject_rows(
                SUBJECTS[name](),
                device,
                torch.bfloat16,
                batch_size=batch_size,
                modes=modes,
                repeats=bench.options["repeats"],
            )
            torch.cuda.empty_cache()
    add_bars(bench, bench.rows)
    if only in ("", "codec"):
        rows = codec_rows(device, CODEC_SIZES, 5 if bench.quick else 21)
        bench.tables["codec"] = rows
        codec_bars(bench, rows)
        bench.tables["codec training"] = [
            {
                "batch": _TRAINING_BATCH,
                "side": _TRAINING_SIDE,
                "steps_a_second": training_steps_per_second(
                    device, batch_size=_TRAINING_BATCH, side=_TRAINING_SIDE, repeats=10
                ),
            }
        ]
    bench.finish(["torch", "diffusers", "cache-dit", "genaccel"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
