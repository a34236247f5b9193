# SPDX-License-Identifier: Apache-2.0
"""A discriminator that is trained beside what it judges, with the hinge loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from genaccel.models.patch_discriminator import PatchDiscriminator, PatchDiscriminatorParams

if TYPE_CHECKING:
    from accelerate import Accelerator


class Adversary:
    """Discriminator and its optimiser.

    Args:
        accelerator: Of the run.
        learning_rate: To begin with; :meth:`update` is told the current one.
        gradient_clip_norm: Largest global norm of the gradient.
    """

    def __init__(
        self, accelerator: Accelerator, *, learning_rate: float, gradient_clip_norm: float
    ) -> None:
        self._accelerator = accelerator
        self._clip_norm = gradient_clip_norm
        network = PatchDiscriminator(PatchDiscriminatorParams())
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.9, 0.95))
        self._network, self._optimizer = accelerator.prepare(network, optimizer)

    def verdict(self, made: Tensor) -> Tensor:
        """Loss of the generator, ``-mean D(made)``, for ``made`` ``[B, 3, H, W]``; no gradient to the weights."""
        plain = self._accelerator.unwrap_model(self._network)
        frozen = {name: weight.detach() for name, weight in plain.named_parameters()}
        return -torch.func.functional_call(plain, frozen, (made,)).float().mean()

    def update(self, real: Tensor, made: Tensor, *, learning_rate: float) -> Tensor:
        """One step on ``real`` and ``made`` ``[B, 3, H, W]``; returns the discriminator's loss before it."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=real.device)
        # A pass and a backward for each: batch norms must not mix them, and DDP allows one pass a backward.
        for images, sign in ((real, -1.0), (made.detach(), 1.0)):
            with self._accelerator.autocast():
                verdicts = self._network(images)
            loss = 0.5 * functional.relu(1 + sign * verdicts.float()).mean()
            self._accelerator.backward(loss)
            total = total + loss.detach()
        self._accelerator.clip_grad_norm_(self._network.parameters(), self._clip_norm)
        self._optimizer.step()
        return total

    def state_dict(self) -> dict[str, Any]:
        """State of network and optimiser, for a checkpoint."""
        return {
            "network": self._accelerator.unwrap_model(self._network).state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._accelerator.unwrap_model(self._network).load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
