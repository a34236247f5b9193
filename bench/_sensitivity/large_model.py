# SPDX-License-Identifier: Apache-2.0
"""Measured time against FLOPs on a model of DiT-XL/2's width, and where the time of a skipped step goes.

Single rounds of wall time, on two cores that seven processes wanted, had 0.67 to 1.46 of the FLOP ratio where CPU time
had 1.00 with a spread of 0.01: the first is of the machine, the second of the method. What is outside of the blocks takes
2 % of a step of one layer and less of more, and our part of a skipped step is below 1 % of a computed one.
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench._sensitivity.ours import Ours, alternating
from bench._sensitivity.peers import peers
from bench._sensitivity.workload import Workload
from genaccel.sampling.methods import Attached, Method, Setting
from genaccel.sampling.speed_search import Failure, Search, Trial

_HEADS, _HEAD_DIM, _LATENT, _LAYERS = 16, 72, 32, 28
_BATCH = 4
# Runs of each kind, in turn, for the cost of a step.
_ROUNDS = 2


def large_workload(device: str, *, layers: int, steps: int) -> tuple[Workload, str]:
    """A DiT of this width with random weights, and what it is in words.

    Args:
        device: Of it. On a CPU there is no guidance: a step of four layers takes seconds.
        layers: Of its 28; 0 for all.
        steps: Of the sampler.
    """
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    on_cpu = device == "cpu"
    layers = layers or _LAYERS
    torch.manual_seed(0)
    transformer: Any = DiTTransformer2DModel(
        num_layers=layers,
        num_attention_heads=_HEADS,
        attention_head_dim=_HEAD_DIM,
        sample_size=_LATENT,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_embeds_ada_norm=1000,
    )
    transformer = transformer.eval().to(device, torch.float32 if on_cpu else torch.float16)
    pipeline = DiTPipeline(transformer, None, DDIMScheduler(clip_sample=False))
    workload = Workload(
        "dit-xl-2-sized",
        pipeline,
        num_steps=steps,
        guidance=1.0 if on_cpu else 4.0,
        classes=range(1000),
        batch_size=_BATCH,
    )
    note = f"random weights, {layers} of {_LAYERS} layers, {steps} steps, batch {_BATCH}" + (
        ", no guidance" if on_cpu else ""
    )
    return workload, note


def large_trials(workload: Workload, *, is_quick: bool) -> list[Trial | Failure]:
    """Every second step of ours, and TaylorSeer's nearest to that."""
    ours = Ours(workload, batches=1)
    methods = alternating(ours, only_segments=is_quick)
    methods += [
        Method(name=m.name, attach=m.attach, ladders=((_two_fold(m),),), note=m.note)
        for m in peers(workload)
        if not is_quick and m.name == "diffusers TaylorSeer, order 1"
    ]
    search = Search(workload)
    return [search.choose(method, 0.0) for method in methods]


def _two_fold(method: Method) -> Setting:
    """The setting of TaylorSeer that is nearest to every second step."""
    return next(s for s in reversed(method.ladders[0]) if s.values["interval"] == 2)


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Milliseconds of a step, of the clock that methods are compared by.

    Attributes:
        computed: A step that computes all blocks.
        skipped: A step that forecasts them.
        outside: A step of the same pipeline without any blocks: embeddings, the final layer, guidance and
            the scheduler, which nobody can skip.
    """

    computed: float
    skipped: float
    outside: float

    def __str__(self) -> str:
        own = self.skipped - self.outside
        return (
            f"a computed step takes {self.computed:.1f} ms, a skipped one {self.skipped:.1f} ms: {self.outside:.1f} ms "
            f"for what is outside of the blocks and {own:.1f} ms of ours ({own / self.computed:.2%} of a computed one)"
        )


def cost_of_steps(workload: Workload, attached: Attached) -> StepCosts:
    """Measure where the time of a skipped step goes: all that it takes beyond a step without blocks is spent on hooks,
    forecasts, and keeping outputs for them.

    Args:
        workload: What is run.
        attached: A pipeline that computes its even steps and skips the odd ones.
    """
    empty = workload.copy()
    empty.transformer.transformer_blocks = nn.ModuleList(
        _Skipped(block) for block in empty.transformer.transformer_blocks
    )
    sides = {
        "plain": workload.plain,
        "ours": attached,
        "without": Attached(empty),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, side in sides.items():
            steps = _seconds_of_steps(workload, side)
            found[name] += steps[::2] if name == "ours" else steps
    milliseconds = {name: 1e3 * statistics.median(seconds) for name, seconds in found.items()}
    return StepCosts(milliseconds["plain"], milliseconds["ours"], milliseconds["without"])


def _seconds_of_steps(workload: Workload, attached: Attached) -> list[float]:
    """Seconds of each step but the first, from one update of the scheduler to the next."""
    scheduler = attached.pipeline.scheduler
    update, moments = scheduler.step, list[float]()

    def noted(*args: Any, **kwargs: Any) -> Any:
        result = update(*args, **kwargs)
        if workload.device.type == "cuda":
            torch.cuda.synchronize(workload.device)
            moments.append(time.perf_counter())
        else:
            moments.append(time.process_time())
        return result

    scheduler.step = noted
    try:
        workload.sample(attached, workload.test_samples(0))
    finally:
        del scheduler.step
    return [after - before for before, after in itertools.pairwise(moments)]


class _Skipped(nn.Module):
    """Stands where a block was. The final layer asks the first block for its embeddings of step and class."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1 = block.norm1

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return hidden_states
