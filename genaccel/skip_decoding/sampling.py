# SPDX-License-Identifier: Apache-2.0
"""How a token is drawn: guidance, filters, and noise that belongs to a place instead of to a moment.

The noise of a token is a function of the seed, the number of its sequence and its position, so it does not matter
in which forward, in which round or beside which other sequences its logits were computed: decoding several tokens
at once draws exactly those that decoding one by one draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genaccel.ops import draw_keyed

# The increment and the multipliers of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), as signed integers.
_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's own keeps the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(values: Tensor) -> Tensor:
    values = (values ^ _shifted(values, 30)) * _MULTIPLIERS[0]
    values = (values ^ _shifted(values, 27)) * _MULTIPLIERS[1]
    return values ^ _shifted(values, 31)


def keyed_uniform(seed: int, sequences: Tensor, positions: Tensor, count: int) -> Tensor:
    """Numbers in (0, 1), float64 ``[*, count]``, that depend on nothing but their key.

    Args:
        seed: Any integer of 64 bits.
        sequences: Numbers of sequences, int64 of any shape.
        positions: Positions in them, of the same shape.
        count: How many numbers each place has.

    Example:
        >>> place = torch.tensor([3])
        >>> bool((keyed_uniform(0, place, place, 4)[:, :2] == keyed_uniform(0, place, place, 2)).all())
        True
    """
    signed = (seed + (1 << 63)) % (1 << 64) - (1 << 63)
    key = _mixed(sequences * _INCREMENT + signed)
    key = _mixed(key + (positions + 1) * _INCREMENT)
    numbers = torch.arange(1, count + 1, device=key.device) * _INCREMENT
    # 52 bits and a half: with more, numbers next to 1 would be rounded to it.
    bits = _shifted(_mixed(key[..., None] + numbers), 12)
    return (bits.double() + 0.5) * 2.0**-52


def draw(log_weights: Tensor, seed: int, sequences: Tensor, positions: Tensor) -> Tensor:
    """Draw tokens ``[*]`` with probabilities proportional to ``exp(log_weights)``, ``[*, V]``.

    The largest sum of log-weight and Gumbel noise is drawn, so a change of the logits moves a draw only where it
    changes which sum is largest. Devices draw alike but for sums within 1e-14 of each other;
    see :func:`genaccel.ops.draw_keyed`.

    Args:
        log_weights: Logits; minus infinity for what must not be drawn.
        seed: Of the noise.
        sequences: Number of the sequence of each row, int64 ``[*]``.
        positions: Position of the token that is drawn, int64 ``[*]``.
    """
    rows = log_weights.reshape(-1, log_weights.shape[-1])
    drawn = draw_keyed(rows, seed, sequences.reshape(-1), positions.reshape(-1))
    return drawn.reshape(sequences.shape)


def perturbed(log_weights: Tensor, seed: int, sequences: Tensor, positions: Tensor) -> Tensor:
    """Log-weights with the Gumbel noise of their places, float64 ``[*, V]``; see :func:`draw`.

    A drafter that guesses by its own logits and this noise agrees with the target far more often than one that guesses
    what is likeliest: where both distributions are alike so are the draws, flat as they may be (arXiv:2408.07978).
    """
    uniform = keyed_uniform(seed, sequences, positions, log_weights.shape[-1])
    return log_weights.double() - (-uniform.log()).log()


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingRule:
    """From a model's logits to the distribution that tokens are drawn from.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Tokens that can be drawn; 0 for all. Ties with the last one stay.
        top_p: Least probability that the tokens together have that can be drawn.
        guidance_scale: Of classifier-free guidance; at 1 there is no unconditional branch.
        allowed: Token numbers from here to there, the end excluded, can be drawn; by default all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float = 1.0
    allowed: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        # Written so that what is not a number is refused too.
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 1 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale must be at least 1, got {self.guidance_scale}")
        if self.allowed is not None and not 0 <= self.allowed[0] < self.allowed[1]:
            raise ValueError(f"allowed must be a range of token numbers, got {self.allowed}")

    @property
    def is_guided(self) -> bool:
        """Whether there is an unconditional branch."""
        return self.guidance_scale != 1

    def combine(self, logits: Tensor) -> Tensor:
        """Logits ``[S, R, V]`` of both branches, ``[2 S, R, V]`` with the conditional ones first, or of the only one."""
        if not self.is_guided:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def log_weights(self, logits: Tensor) -> Tensor:
        """Combined logits ``[*, V]`` to those that tokens are drawn by; what is filtered is minus infinity.

        Raises:
            ValueError: If logits are not numbers, as those of a model that overflows are, or none of the tokens is allowed.
        """
        # Checked here, for a largest element that is not a number would be drawn without a word.
        if not bool(torch.isfinite(logits.amax(-1)).all()):
            raise ValueError(
                "the model's logits are not finite: use a format with more range, such as bfloat16 or float32"
            )
        if self.allowed is not None:
            if self.allowed[0] >= logits.shape[-1]:
                raise ValueError(
                    f"none of the {logits.shape[-1]} tokens is allowed: allowed is {self.allowed}"
                )
            inside = slice(*self.allowed)
            filtered = torch.full_like(logits, -torch.inf)
            filtered[..., inside] = logits[..., inside]
            logits = filtered
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.full_like(logits, -torch.inf).scatter_(-1, best, 0.0)
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True, stable=True)
            probabilities = ordered.softmax(-1)
            before = probabilities.cumsum(-1) - probabilities
            logits = logits.masked_fill(
                torch.zeros_like(logits, dtype=torch.bool).scatter_(
                    -1, order, before >= self.top_p
                ),
                -torch.inf,
            )
        return logits
