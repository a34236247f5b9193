# SPDX-License-Identifier: Apache-2.0
"""Which number format a training run computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

Precision = Literal["no", "fp16", "bf16", "auto"]

NAMES = {"no": "fp32", "fp16": "fp16 (autocast)", "bf16": "bf16 (autocast)"}

# Instructions that multiply in bf16, as Linux names them on x86 and on Arm.
_BF16_INSTRUCTIONS = {"amx_bf16", "avx512_bf16", "bf16"}


def fast_precision(*, cpu: bool) -> Literal["no", "bf16"]:
    """bf16 where the device multiplies in it faster than in fp32, else "no".

    Args:
        cpu: Whether the CPU computes although there may be a GPU.
    """
    if not cpu and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool(_BF16_INSTRUCTIONS & _cpu_features())
    return "bf16" if fast else "no"


def _cpu_features() -> set[str]:
    """Instruction sets of the first processor; none where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = (line.partition(":") for line in text.splitlines())
    return next(
        (set(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")),
        set(),
    )
