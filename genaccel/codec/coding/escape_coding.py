# SPDX-License-Identifier: Apache-2.0
"""Codes the indices of a large codebook in two streams: likely ones by rank, the others behind an escape (RDVQ, arXiv 2604.10546).

A 16-bit table gives every symbol at least one slot of 65536, which costs ``-log2(1 - S / 65536)`` bits per token
for S symbols: 0.093 for 4096, 0.023 for 1025. So the *top* stream codes the rank among the ``top_k`` most probable
codes, or an escape; only for escapes the *residual* stream codes the rank among the other codes, in index order.

Both sides must compute the same probabilities to the bit, tokens in the same order.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel import _coder, ops
from genaccel.errors import BitstreamError

PRECISION = 16  # bits of the tables

# The escape must stay possible where rounding leaves nothing of it.
_LEAST_ESCAPE = torch.finfo(torch.float32).tiny


def _require_rows(probabilities: Tensor, top_k: int) -> None:
    if probabilities.ndim != 2 or probabilities.dtype != torch.float32:
        raise ValueError(
            f"probabilities must be float32 [N, K], got {probabilities.dtype} "
            f"{tuple(probabilities.shape)}"
        )
    if not 1 <= top_k < probabilities.shape[1]:
        raise ValueError(
            f"top_k must be in [1, K) = [1, {probabilities.shape[1]}), got {top_k}: "
            "without a residual there is nothing to escape to"
        )


def top_rows(probabilities: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Alphabet and table of each token of the top stream.

    Args:
        probabilities: float32 ``[N, K]``, each row of sum 1.
        top_k: Codes with a symbol of their own, less than K.

    Returns:
        ``codes`` int64 ``[N, top_k]``, most probable first, the lowest index first among equals; ``cdfs`` int32
        ``[N, top_k + 2]``, with the escape as the last symbol.

    Raises:
        ValueError: For another shape, dtype, or ``top_k``.

    Example:
        >>> codes, cdfs = top_rows(torch.tensor([[0.125, 0.5, 0.125, 0.25]]), top_k=2)
        >>> codes.tolist(), cdfs.tolist()
        ([[1, 3]], [[0, 32768, 49152, 65536]])
    """
    _require_rows(probabilities, top_k)
    # A stable sort and not topk, which leaves open what becomes of equals.
    values, codes = probabilities.sort(dim=1, descending=True, stable=True)
    top = values[:, :top_k]
    escape = (1 - top.sum(dim=1, keepdim=True)).clamp(min=_LEAST_ESCAPE)
    return codes[:, :top_k], ops.pmf_to_cdf(torch.cat([top, escape], dim=1), PRECISION)


def residual_rows(probabilities: Tensor, top_codes: Tensor) -> tuple[Tensor, Tensor]:
    """Alphabet and table of each token of the residual stream.

    Args:
        probabilities: float32 ``[N, K]``.
        top_codes: int64 ``[N, top_k]``, the codes that :func:`top_rows` gave for these rows.

    Returns:
        ``codes`` int64 ``[N, K - top_k]`` in index order, and ``cdfs`` int32 ``[N, K - top_k + 1]``.

    Raises:
        ValueError: For another shape or dtype.

    Example:
        >>> p = torch.tensor([[0.125, 0.5, 0.125, 0.25]])
        >>> codes, cdfs = residual_rows(p, torch.tensor([[1, 3]]))
        >>> codes.tolist(), cdfs.tolist()
        ([[0, 2]], [[0, 32768, 65536]])
    """
    _require_rows(probabilities, top_codes.shape[1])
    rest = torch.ones_like(probabilities, dtype=torch.bool).scatter_(1, top_codes, False)
    codes = rest.nonzero()[:, 1].view(len(probabilities), -1)
    return codes, ops.pmf_to_cdf(probabilities.gather(1, codes), PRECISION)


def _int32(values: Tensor) -> NDArray[np.int32]:
    return np.ascontiguousarray(values.cpu().numpy(), dtype=np.int32)


class EscapeEncoder:
    """Codes indices, slice by slice, into the two streams.

    Args:
        top_k: Codes with a symbol of their own; 1024 in the authors' files.

    Example:
        >>> p = torch.softmax(torch.arange(8.0), dim=0).expand(3, 8)
        >>> indices = torch.tensor([7, 0, 6])
        >>> encoder = EscapeEncoder(top_k=4)
        >>> encoder.push(p, indices)
        >>> decoder = EscapeDecoder(*encoder.finish(), top_k=4)
        >>> decoder.pull(p)
        tensor([7, 0, 6])
        >>> decoder.finish()
    """

    def __init__(self, top_k: int = 1024) -> None:
        self._top_k = top_k
        self._top = _coder.ByteRansEncoder()
        self._residual = _coder.ByteRansEncoder()

    def push(self, probabilities: Tensor, indices: Tensor) -> None:
        """Append tokens.

        Args:
            probabilities: float32 ``[N, K]``, each row of sum 1.
            indices: int64 ``[N]``, on the same device.

        Raises:
            ValueError: If a shape or dtype does not fit, or an index is not in [0, K).
        """
        codes, cdfs = top_rows(probabilities, self._top_k)
        if indices.shape != probabilities.shape[:1]:
            raise ValueError(
                f"indices must have shape {tuple(probabilities.shape[:1])}, got {tuple(indices.shape)}"
            )
        if len(indices) == 0:
            return
        if int(indices.min()) < 0 or int(indices.max()) >= probabilities.shape[1]:
            raise ValueError(f"indices must be in [0, {probabilities.shape[1]})")
        hits = codes == indices[:, None]  # at most one in a row
        escaped = ~hits.any(dim=1)
        symbols = hits.int().argmax(dim=1).masked_fill(escaped, self._top_k)
        self._top.push_cdfs(_int32(symbols), _int32(cdfs), PRECISION)
        if bool(escaped.any()):
            codes, cdfs = residual_rows(probabilities[escaped], codes[escaped])
            ranks = (codes < indices[escaped, None]).sum(dim=1)  # codes ascend
            self._residual.push_cdfs(_int32(ranks), _int32(cdfs), PRECISION)

    def finish(self) -> tuple[bytes, bytes]:
        """Top and residual stream of all that was pushed; the encoder is empty afterwards."""
        return self._top.finish(), self._residual.finish()


class EscapeDecoder:
    """Inverse of :class:`EscapeEncoder`.

    Args:
        top: Top stream.
        residual: Residual stream.
        top_k: As the encoder had it.

    Raises:
        BitstreamError: If one is no stream.
    """

    def __init__(self, top: bytes, residual: bytes, top_k: int = 1024) -> None:
        self._top_k = top_k
        try:
            self._top = _coder.ByteRansDecoder(top)
            self._residual = _coder.ByteRansDecoder(residual)
        except _coder.StreamError as error:
            raise BitstreamError(f"payload does not decode: {error}") from error

    def pull(self, probabilities: Tensor) -> Tensor:
        """The next tokens' indices, int64 ``[N]``, each below K whatever the streams hold.

        Args:
            probabilities: float32 ``[N, K]``, those of the encoder.

        Raises:
            ValueError: For another shape or dtype.
            BitstreamError: If a stream ends before.
        """
        codes, cdfs = top_rows(probabilities, self._top_k)
        device = probabilities.device
        try:
            symbols = torch.from_numpy(self._top.pull_cdfs(_int32(cdfs), PRECISION)).to(device)
            escaped = symbols == self._top_k
            ranks = symbols.long().masked_fill(escaped, 0)
            indices = codes.gather(1, ranks[:, None])[:, 0]
            if bool(escaped.any()):
                codes, cdfs = residual_rows(probabilities[escaped], codes[escaped])
                rest = torch.from_numpy(self._residual.pull_cdfs(_int32(cdfs), PRECISION))
                indices[escaped] = codes.gather(1, rest.to(device).long()[:, None])[:, 0]
        except _coder.StreamError as error:
            raise BitstreamError(f"payload does not decode: {error}") from error
        return indices

    def finish(self) -> None:
        """Raise BitstreamError unless both streams were read to their ends."""
        try:
            self._top.finish()
            self._residual.finish()
        except _coder.StreamError as error:
            raise BitstreamError(f"payload does not decode: {error}") from error
