# SPDX-License-Identifier: Apache-2.0
"""Keeps every code word of a codebook in use while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator

_USAGE_DECAY = 0.98  # about the last 50 steps


class CodebookUpkeep:
    """Counts how often code words are used and restarts the dead ones.

    A code word that no feature is nearest to gets no gradient and stays dead for ever. Restarting puts it on a
    random feature of the current batch. The first call restarts all: random unit vectors are far from the
    narrow cone in which a fresh encoder's features lie.
    """

    def __init__(self, codebook_size: int, *, dead_below: float, seed: int) -> None:
        self.usage = torch.zeros(codebook_size, dtype=torch.float64)  # mean count per step
        self.dead_below = dead_below
        self.seed = seed

    def count(self, indices: Sequence[Tensor], accelerator: Accelerator) -> None:
        """Add the index maps of one step, over all processes."""
        counts = torch.zeros_like(self.usage, device=indices[0].device)
        for index_map in indices:
            counts += torch.bincount(index_map.flatten(), minlength=counts.numel())
        counts = accelerator.reduce(counts, reduction="sum").cpu()
        self.usage.mul_(_USAGE_DECAY).add_(counts, alpha=1 - _USAGE_DECAY)

    @torch.no_grad()
    def restart(
        self,
        weight: Tensor,
        optimizer: torch.optim.Optimizer,
        features: Sequence[Tensor],
        step: int,
    ) -> int:
        """Replace dead rows of ``weight`` ``[K, C]`` by normalised features; returns how many.

        Args:
            weight: The codebook parameter, changed in place.
            optimizer: Its moments of the replaced rows are cleared.
            features: Maps ``[B, C, H, W]`` of this step.
            step: Seeds the choice, so that a resumed run chooses alike.
        """
        from accelerate.utils import broadcast

        dead = self.usage < self.dead_below * self.usage.mean()
        rows = dead.nonzero().flatten().to(weight.device)
        if rows.numel() == 0:
            return 0
        pool = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, f.shape[1]) for f in features]).float()
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        choice = torch.randint(pool.shape[0], (rows.numel(),), generator=generator).to(
            weight.device
        )
        weight[rows] = functional.normalize(pool[choice], dim=1).to(weight.dtype)
        # Processes see other features: all take those of the first.
        weight.copy_(broadcast(weight.data, from_process=0))
        for moment in optimizer.state.get(weight, {}).values():
            if torch.is_tensor(moment) and moment.shape == weight.shape:
                moment[rows] = 0
        self.usage[dead] = self.usage.mean()
        return int(rows.numel())

    def state_dict(self) -> dict[str, Any]:
        """Use of each code word, for a checkpoint."""
        return {"usage": self.usage.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.usage.copy_(state["usage"])
