# SPDX-License-Identifier: Apache-2.0
"""Tries which transformers of diffusers genaccel accelerates, and with which switches: each class at toy size.

Every cell is a run: what is claimed of a class was seen to hold for a real, tiny instance of it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hooks"))
from bench.harness import Bench
from genaccel.files.atomic import write_atomically
from genaccel.hooks.blocks import find_block_lists

tiny_transformers: Any = importlib.import_module("tiny_transformers")
scripted: Any = importlib.import_module("scripted")

STEPS = (0.3, 0.4, 0.5)
YES, NO, CANNOT, UNTRIED = "yes", "no", "model cannot", "-"
TARGET = 55
# Seconds each, mostly in flex attention or in long inputs.
SLOW = {
    "AnyFlowFARTransformer3DModel",
    "HunyuanDiT2DModel",
    "Kandinsky6SRTransformer3DModel",
    "SanaWMTransformer3DModel",
    "T5FilmDecoder",
    "WanAnimate2Transformer3DModel",
    "WanAnimateTransformer3DModel",
}
QUICK_SWITCHES = {"DiTTransformer2DModel", "WanTransformer3DModel"}

HEAD = """\
# Compatibility

Every transformer class of diffusers {version}, as a real instance of toy size, in float32 on a CPU. Each cell is
a run; the table is written by

```
python bench/compatibility.py --markdown docs/compatibility.md
```

(`pip install peft` for the column LoRA.)

{summary}

* **segments**: runs of blocks that are skipped or computed as one; blocks in none are always computed.
* **covered**: share of a call's FLOPs that lies in segments, at toy size, where what is
  around two or three blocks weighs more than around forty.
* **bit-identical**: with every segment computed, outputs are those of the model alone.
* **disable**: after `handle.disable()`, outputs are those of before, bit for bit, and no attribute is left.
* **compiled**: `handle.compile(fullgraph=True)` runs with two graphs, one computed and one forecast, and the
  outputs of the uncompiled run.
* **offload, float8, LoRA**: with group offload (`leaf_level`), with layerwise casting to float8 storage, and with
  a PEFT adapter on the blocks, computed outputs are those that the model has with it alone, bit for bit, a
  forecast step runs, and disabling leaves the model with it alone.
* **model cannot**: the same fails without genaccel.

"""


class Subject:
    """One class, of which fresh instances are tried."""

    def __init__(self, name: str) -> None:
        self.tiny = tiny_transformers.TINY_TRANSFORMERS[name]
        self.name = name
        self.inputs = [self.tiny.inputs(step) for step in STEPS]

    def outputs(self, model: nn.Module) -> list[list[Tensor]]:
        """Output tensors of each step."""
        return [tiny_transformers.call(model, given) for given in self.inputs]

    def row(self) -> dict[str, Any]:
        """The columns of the table that need no switch, by name."""
        model = self.tiny.build()
        lists = ", ".join(found.name for found in find_block_lists(model))
        plain = self.outputs(model)
        engine = scripted.attach(model, [1, 1, 1])
        computed = self.outputs(model)
        covered = sum(s.flops for s in engine.segments) / max(1, engine.total_flops)
        blocks = sum(len(s.blocks) for s in engine.segments)
        total = sum(len(found.blocks) for found in engine.binding.lists)
        engine.detach()
        restored = same(plain[:1], [tiny_transformers.call(model, self.inputs[0])])
        left = any({"forward", "_diffusers_hook"} & set(vars(module)) for module in model.modules())
        return {
            "class": self.name,
            "block_lists": lists,
            "segments": len(engine.segments),
            "blocks": f"{blocks} of {total}",
            "covered": f"{covered:.0%}",
            "bit-identical": said(same(plain, computed)),
            "disable": said(restored and not left),
        }

    def compiled(self) -> str:
        """Whether a compiled forward gives the same in two graphs, as a cell of the table."""
        model = self.tiny.build()
        engine = scripted.attach(model, [1, 1, 0])
        expected = self.outputs(model)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        try:
            engine.binding.compile(fullgraph=True, backend="eager")
            outputs = self.outputs(model)
        except Exception as error:
            engine.detach()
            return self.blame(error, lambda: self.compile_alone(model))
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        close = all(
            torch.allclose(a, b, rtol=1e-3, atol=1e-4)
            for ours, theirs in zip(outputs, expected, strict=True)
            for a, b in zip(ours, theirs, strict=True)
        )
        if graphs > 2 or not close:
            explain(self.name, f"{graphs} graphs, outputs {'equal' if close else 'differ'}")
        return said(graphs <= 2 and close)

    def compile_alone(self, model: Any) -> None:
        """Compile and run the model by itself; raises if that fails too."""
        torch._dynamo.reset()
        forward = model.forward
        model.forward = torch.compile(forward, fullgraph=True, backend="eager")
        try:
            self.outputs(model)
        finally:
            del model.forward

    def with_switch(self, switch: Callable[[Any], None]) -> str:
        """Whether acceleration and a switch of diffusers work together, as a cell of the table."""
        model = self.tiny.build()
        try:
            switch(model)
            plain = self.outputs(model)
        except Exception as error:
            explain(self.name, f"by itself: {error}")
            return CANNOT
        try:
            engine = scripted.attach(model, [1, 1, 0])
            outputs = self.outputs(model)
            skipped = not any(engine.records[-1].computed)
            engine.detach()
            after = self.outputs(model)
        except Exception as error:
            explain(self.name, str(error))
            return NO
        return said(same(plain[:2], outputs[:2]) and skipped and same(plain, after))

    def blame(self, error: Exception, alone: Callable[[], None]) -> str:
        """Blame diffusers for a failure if the model fails by itself too, else genaccel; as a cell of the table."""
        try:
            alone()
        except Exception:
            return CANNOT
        explain(self.name, str(error))
        return NO


def offload(model: Any) -> None:
    """Switch on group offload, from the CPU to itself."""
    if not model._supports_group_offloading:
        raise ValueError("diffusers offloads no groups of this class")
    model.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


def cast(model: Any) -> None:
    """Switch on layerwise casting: weights are kept in eight bits."""
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def adapt(model: Any) -> None:
    """Add a LoRA adapter on every linear layer of the blocks."""
    peft: Any = importlib.import_module("peft")
    linears = {id(m): n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    targets = [
        linears[id(module)]
        for found in find_block_lists(model)
        for block in found.blocks
        for module in block.modules()
        if id(module) in linears
    ]
    torch.manual_seed(0)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))


def same(first: list[list[Tensor]], second: list[list[Tensor]]) -> bool:
    """Whether the outputs of two runs are equal bit for bit."""
    return len(first) == len(second) and all(
        len(a) == len(b) and all(map(torch.equal, a, b)) for a, b in zip(first, second, strict=True)
    )


def said(holds: bool) -> str:
    """The cell of the table for an answer."""
    return YES if holds else NO


def explain(name: str, reason: str) -> None:
    """Print the reason for a cell that says no."""
    print(f"{name}: {reason.strip().splitlines()[0][:200]}", file=sys.stderr)


def has_peft() -> bool:
    """Whether peft is installed, so that adapters can be tried."""
    with contextlib.suppress(ImportError):
        importlib.import_module("peft")
        return True
    return False


def markdown(rows: list[dict[str, Any]], summary: str) -> str:
    """The table with its head."""
    import diffusers

    columns = list(rows[0])
    lines = [
        "| " + " | ".join(c.replace("_", " ") for c in columns) + " |",
        "|" + "|".join("---" for _ in columns) + "|",
        *("| " + " | ".join(f"{row[c]}" for c in columns) + " |" for row in rows),
    ]
    return HEAD.format(version=diffusers.__version__, summary=summary) + "\n".join(lines) + "\n"


def summarise(rows: list[dict[str, Any]]) -> str:
    """A sentence for each column of answers."""
    parts = [f"{sum(row['segments'] > 0 for row in rows)} of {len(rows)} classes have segments"]
    for column in ("bit-identical", "disable", "compiled", "offload", "float8", "LoRA"):
        cells = [row[column] for row in rows if row[column] != UNTRIED]
        if cells:
            able = [cell for cell in cells if cell != CANNOT]
            others = f" ({len(cells) - len(able)} models cannot)" if len(able) < len(cells) else ""
            parts.append(f"{column}: {able.count(YES)} of {len(able)}{others}")
    return "; ".join(parts) + "."


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "compatibility",
        "What genaccel accelerates, and together with what.",
        {
            "markdown": (Path, None, None, "also write the table here"),
            "only": (str, "", "", "classes whose names contain this"),
        },
    )
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("diffusers", "torch._dynamo"):
        logging.getLogger(name).setLevel(logging.ERROR)
    names = [
        name
        for name in tiny_transformers.TINY_TRANSFORMERS
        if bench.options["only"] in name and not (bench.quick and name in SLOW)
    ]
    adapters = has_peft()
    for name in names:
        start = time.perf_counter()
        subject = Subject(name)
        row = subject.row()
        tried = not bench.quick or name in QUICK_SWITCHES
        row["compiled"] = subject.compiled() if tried and not bench.quick else UNTRIED
        row["offload"] = subject.with_switch(offload) if tried else UNTRIED
        row["float8"] = subject.with_switch(cast) if tried else UNTRIED
        row["LoRA"] = subject.with_switch(adapt) if tried and adapters else UNTRIED
        bench.rows.append(row)
        print(f"{name} {time.perf_counter() - start:.1f} s", file=sys.stderr)
        torch._dynamo.reset()
        gc.collect()
    summary = summarise(bench.rows)
    print(summary)
    if bench.options["markdown"] is not None:
        text = markdown(bench.rows, summary)
        write_atomically(bench.options["markdown"], text, overwrite=True, parents=True)
    covered = sum(
        row["segments"] > 0 and row["bit-identical"] == row["disable"] == YES for row in bench.rows
    )
    bench.bar("classes_covered", covered, TARGET)
    bench.finish(
        ["genaccel", "diffusers", "torch", "peft"]
        if adapters
        else ["genaccel", "diffusers", "torch"]
    )


if __name__ == "__main__":
    main()
