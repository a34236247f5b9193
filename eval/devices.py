# SPDX-License-Identifier: Apache-2.0
"""Where the networks of metrics run, and how, so that a GPU gives the same values every time."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch


def device_by_name(name: str) -> torch.device:
    """A device; of several processes with ``"cuda"``, each takes the GPU of its local rank.

    Raises:
        ValueError: If there is no such device here.
    """
    try:
        device = torch.device(name)
        if device == torch.device("cuda") and "LOCAL_RANK" in os.environ:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {name!r} is not to be had here ({str(error).splitlines()[0]})"
        ) from error
    return device


def exact_convolutions() -> AbstractContextManager[None]:
    """Let the convolutions of a GPU repeat: without TF32, which moves the third digit, and without autotuning.

    Autotuning may choose another algorithm each time. On a CPU nothing changes.
    """
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
