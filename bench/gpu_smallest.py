# SPDX-License-Identifier: Apache-2.0
"""Each operator once on its smallest case of ``tests/op_cases``, on the GPU: what ``compute-sanitizer`` watches.

python bench/gpu_smallest.py [OP ...]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench._gpu.cases import every_tensor, op_cases

MARK = "operator "


def smallest_shape(case: Any) -> dict[str, int]:
    """The shape with the fewest elements, of those where every tensor has some.

    Raises:
        ValueError: If there is none.
    """
    sized = []
    for shape in case.shapes:
        counts = [
            tensor.numel() for tensor in every_tensor(case.make_inputs(case.dtypes[0], **shape))
        ]
        if all(counts):
            sized.append((sum(counts), shape))
    if not sized:
        raise ValueError(f"{case.name} has no case with elements")
    found: dict[str, int] = min(sized, key=lambda item: item[0])[1]
    return found


def run(case: Any, device: torch.device) -> None:
    """Call an operator in each of its dtypes."""
    for dtype in case.dtypes:
        inputs = case.make_inputs(dtype, **smallest_shape(case))
        moved = [_moved(value, device) for value in inputs]
        getattr(torch.ops.genaccel, case.name)(*moved)
        if device.type == "cuda":
            torch.cuda.synchronize()


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(v, device) for v in value]
    return value.to(device) if torch.is_tensor(value) else value


def main(names: list[str]) -> int:
    """Run; 2 without a GPU."""
    if not torch.cuda.is_available():
        print("bench/gpu_smallest.py needs a CUDA device", file=sys.stderr)
        return 2
    for case in op_cases():
        if not names or case.name in names:
            # Before the call: what the sanitizer says next is about it.
            print(f"{MARK}{case.name}", flush=True)
            run(case, torch.device("cuda"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
