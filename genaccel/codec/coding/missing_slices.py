# SPDX-License-Identifier: Apache-2.0
"""Makes up the indices of missing slices from the entropy model: the same ones on every machine.

The authors sample them with floating-point probabilities and torch's generator (RDVQ, section "RDVQ-Adj"), so two
machines show two pictures. Here both the probabilities and the draws are integers: a draw is a hash of the seed and
of the index's place in the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEFAULT_SEED = 0

_MASK = (1 << 31) - 1
_DRAW_BITS = 16


def draws(seed: int, places: Tensor) -> Tensor:
    """Pseudo-random 16-bit integers.

    A hash in 31 bits, so that no product leaves int64 and the result is that of exact arithmetic: two rounds of
    xorshift and multiplication, as in the finalisers of MurmurHash.

    Args:
        seed: Any integer.
        places: int64, any shape, not negative: numbers of the draws.

    Returns:
        int64 in [0, 65536), the shape of ``places``.
    """
    x = (places * 0x2545F491 + (seed % (1 << 31)) * 0x19660D + 0x3C6EF35F) & _MASK
    for multiplier in (0x2C1B3C6D, 0x297A2D39):
        x = x ^ (x >> 15)
        x = (x * multiplier) & _MASK
    x = x ^ (x >> 14)
    return x >> (31 - _DRAW_BITS)


def pick(cdfs: Tensor, drawn: Tensor) -> Tensor:
    """The symbol that owns each drawn slot.

    Args:
        cdfs: int32 ``[N, symbols + 1]``, from 0 to 65536.
        drawn: int64 ``[N]`` in [0, 65536).

    Returns:
        int64 ``[N]``.
    """
    return (cdfs[:, 1:].long() <= drawn.unsqueeze(1)).sum(dim=1)


def most_likely(logits: Tensor) -> Tensor:
    """The largest logit's index, the lowest of equal ones on every device.

    Args:
        logits: int32 ``[N, K]``.

    Returns:
        int64 ``[N]``.
    """
    count = logits.shape[1]
    ranks = torch.arange(count - 1, -1, -1, device=logits.device)
    return (logits.long() * count + ranks).argmax(dim=1)
