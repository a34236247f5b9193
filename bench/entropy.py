# SPDX-License-Identifier: Apache-2.0
"""Throughput of ``genaccel._coder`` against compressai and constriction, in one run, one thread.

Static tables are what the codec uses: each coder takes the same symbols and the same 16-bit table, in the form
that its own interface wants; conversions of the inputs are not timed. Own tables: one cumulative table per symbol.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel._coder import CdfTables, RansDecoder, RansEncoder
from genaccel.sampling.turns import seconds_in_turn

PRECISION = 16
OUR_LANES = 8  # the codec uses 1 to 16, growing with the image


def make_cdf(alphabet: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """A skewed 16-bit table ``[alphabet + 1]``."""
    weights = rng.random(alphabet) ** 3
    frequencies = 1 + np.floor(weights / weights.sum() * (2**PRECISION - alphabet)).astype(np.int64)
    frequencies[0] += 2**PRECISION - frequencies.sum()
    cdf: NDArray[np.int32] = np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int32)
    return cdf


def draw(cdf: NDArray[np.int32], count: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Symbols distributed as the table says."""
    slots = rng.integers(0, 2**PRECISION, count)
    symbols: NDArray[np.int32] = (np.searchsorted(cdf, slots, side="right") - 1).astype(np.int32)
    return symbols


class Ours:
    """genaccel, static table."""

    def __init__(self, cdf: NDArray[np.int32], symbols: NDArray[np.int32]) -> None:
        self.tables, self.symbols = CdfTables(cdf[None], PRECISION), symbols
        self.data = self.encode()

    def encode(self) -> bytes:
        encoder = RansEncoder(OUR_LANES)
        encoder.push(self.symbols, self.tables)
        return encoder.finish()

    def decode(self) -> NDArray[np.int32]:
        decoder = RansDecoder(self.data, OUR_LANES)
        symbols = decoder.pull(len(self.symbols), self.tables)
        decoder.finish()
        return symbols


class Compressai:
    """compressai.ans, static table; its last bin is an escape, so the table gets one more."""

    def __init__(self, cdf: NDArray[np.int32], symbols: NDArray[np.int32]) -> None:
        from compressai import ans

        self.ans = ans
        with_escape = cdf.copy()
        # The escape needs a slot: taken from the symbol that has most.
        widest = int(np.diff(cdf).argmax())
        with_escape[widest + 1 :] -= 1
        self.cdfs = [[*with_escape.tolist(), 2**PRECISION]]
        self.sizes, self.offsets = [len(self.cdfs[0])], [0]
        self.symbols, self.indexes = symbols.tolist(), [0] * len(symbols)
        self.data = self.encode()

    def encode(self) -> bytes:
        encoded: bytes = self.ans.RansEncoder().encode_with_indexes(
            self.symbols, self.indexes, self.cdfs, self.sizes, self.offsets
        )
        return encoded

    def decode(self) -> Any:
        return self.ans.RansDecoder().decode_with_indexes(
            self.data, self.indexes, self.cdfs, self.sizes, self.offsets
        )


class Constriction:
    """constriction's stack coder (ANS), its default precision of 24 bits, static table."""

    def __init__(self, cdf: NDArray[np.int32], symbols: NDArray[np.int32]) -> None:
        import constriction

        probabilities = np.diff(cdf).astype(np.float32) / 2**PRECISION
        model = constriction.stream.model.Categorical(probabilities, perfect=False)
        self.begin(constriction.stream.stack.AnsCoder, symbols, (model,), (model, len(symbols)))

    def begin(
        self,
        coder: Any,
        symbols: NDArray[np.int32],
        encoding: tuple[Any, ...],
        decoding: tuple[Any, ...],
    ) -> None:
        self.coder, self.symbols = coder, symbols
        self.encoding, self.decoding = encoding, decoding
        self.data = self.encode()

    def encode(self) -> Any:
        coder = self.coder()
        coder.encode_reverse(self.symbols, *self.encoding)
        return coder.get_compressed()

    def decode(self) -> Any:
        return self.coder(self.data).decode(*self.decoding)


class OursOwnTables:
    """genaccel, one table per symbol."""

    def __init__(self, cdfs: NDArray[np.int32], symbols: NDArray[np.int32]) -> None:
        self.cdfs, self.symbols = cdfs, symbols
        self.data = self.encode()

    def encode(self) -> bytes:
        encoder = RansEncoder(1)
        encoder.push_cdfs(self.symbols, self.cdfs, PRECISION)
        return encoder.finish()

    def decode(self) -> NDArray[np.int32]:
        return RansDecoder(self.data, 1).pull_cdfs(self.cdfs, PRECISION)


class ConstrictionOwnTables(Constriction):
    """constriction's stack coder, one table per symbol."""

    def __init__(self, cdfs: NDArray[np.int32], symbols: NDArray[np.int32]) -> None:
        import constriction

        family = constriction.stream.model.Categorical(perfect=False, lazy=True)
        probabilities = (np.diff(cdfs, axis=1) / 2**PRECISION).astype(np.float32)
        tables = (family, probabilities)
        self.begin(constriction.stream.stack.AnsCoder, symbols, tables, tables)


def build(
    kinds: dict[str, Any], cdf: NDArray[np.int32], symbols: NDArray[np.int32]
) -> dict[str, Any]:
    """The coders that are installed, each checked to give the symbols back."""
    coders = {}
    for name, kind in kinds.items():
        try:
            coder = kind(cdf, symbols)
        except ImportError as error:
            print(
                f"{name} is not installed ({error}): pip install 'genaccel[bench]'", file=sys.stderr
            )
            continue
        if not np.array_equal(np.asarray(coder.decode()), symbols):
            raise AssertionError(f"{name} does not give the symbols back")
        coders[name] = coder
    return coders


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "entropy", "Range coder throughput, million symbols per second."
    )
    rng = np.random.default_rng(0)
    count, repeats = (400_000, 5) if bench.quick else (2_000_000, 9)
    static = {"genaccel": Ours, "compressai": Compressai, "constriction": Constriction}
    own = {"genaccel": OursOwnTables, "constriction": ConstrictionOwnTables}

    worst: dict[tuple[str, str], float] = {}
    for alphabet in (256, 1024, 4096):
        cdf = make_cdf(alphabet, rng)
        symbols = draw(cdf, count, rng)
        measure(bench, "static table", alphabet, build(static, cdf, symbols), count, repeats, worst)
    for alphabet in (1024, 4096):
        rows = 2_000
        cdfs = np.stack([make_cdf(alphabet, rng) for _ in range(rows)])
        symbols = np.array([draw(cdf, 1, rng)[0] for cdf in cdfs], dtype=np.int32)
        measure(bench, "own tables", alphabet, build(own, cdfs, symbols), rows, repeats, {})

    for peer, target in (("compressai", 3.0), ("constriction", 1.0)):
        for direction in ("encode", "decode"):
            bench.bar(f"entropy_{direction}_vs_{peer}", worst.get((peer, direction)), target)
    bench.finish(["genaccel", "compressai", "constriction", "numpy"])


def measure(
    bench: Bench,
    tables: str,
    alphabet: int,
    coders: dict[str, Any],
    count: int,
    repeats: int,
    worst: dict[tuple[str, str], float],
) -> None:
    """Time all coders on one input; keeps in ``worst`` our smallest ratio to each peer."""
    seconds = {
        direction: seconds_in_turn({n: getattr(c, direction) for n, c in coders.items()}, repeats)
        for direction in ("encode", "decode")
    }
    for name, coder in coders.items():
        row = {"tables": tables, "alphabet": alphabet, "coder": name}
        for direction in ("encode", "decode"):
            ratio = seconds[direction][name] / seconds[direction]["genaccel"]
            row[f"{direction}_Msym_s"] = count / seconds[direction][name] / 1e6
            row[f"genaccel_{direction}_ratio"] = ratio
            if name != "genaccel":
                worst[name, direction] = min(worst.get((name, direction), float("inf")), ratio)
        row["bits_per_symbol"] = 8 * memoryview(coder.data).nbytes / count
        bench.rows.append(row)


if __name__ == "__main__":
    main()
