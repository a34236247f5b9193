# SPDX-License-Identifier: Apache-2.0
"""Processes started by ``accelerate launch`` or ``torchrun``: which one this is, and what all found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as distributed

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among its peers.

    Attributes:
        rank: Its number.
        world_size: How many there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that reports."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[T | None] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Join the processes that a launcher started; alone without one.

    A group that the caller has set up is used as it is.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield Processes(rank=distributed.get_rank(), world_size=distributed.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank=distributed.get_rank(), world_size=distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
