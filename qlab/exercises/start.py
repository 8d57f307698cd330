"""Exercises of lesson 00: what a weight really costs."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Generator, randint

from qlab.exercises.core import exercise

ROUNDING = 1e-12
"""Quotients of integers below 2^40 in another order of operations differ by a few units of 2^-53."""

Case = tuple[int, int, int, int | None, int, int]


def _cases(g: Generator) -> Iterator[tuple[str, Case]]:
    yield "one matrix, groups of 128 that fit", (4096, 4096, 4, 128, 16, 4)
    yield "rows of 576 in groups of 128: the last group has 64", (576, 576, 4, 128, 16, 4)
    yield "one group per row", (1536, 576, 4, None, 16, 0)
    yield "more columns than rows, one group per row", (576, 1536, 8, None, 16, 0)
    yield "a single row", (1, 100, 3, 32, 16, 3)
    yield "a tail of one weight", (10, 33, 4, 32, 16, 4)
    yield "a group as long as the row", (7, 64, 2, 64, 16, 2)
    yield "float32 scales and no zero", (64, 64, 4, 64, 32, 0)
    for _ in range(6):
        out, columns, bits, group = (int(randint(1, top, (1,), generator=g)) for top in (300, 2000, 9, 200))
        yield f"[{out}, {columns}] in groups of {group}", (out, columns, bits, min(group, columns), 16, bits)


@exercise("start.true_bits", _cases, tolerance=ROUNDING)
def true_bits(out: int, columns: int, bits: int, group: int | None, scale_bits: int, zero_bits: int) -> float:
    """Stored bits per weight of a matrix [out, columns]: codes, and a scale and a zero for each group of a row.

    `group` None is one group per row; the last group of a row may be shorter and still stores its scale and zero.
    Counted group by group, so that it shares nothing with `QuantSpec.size_bits`.
    """
    stored = 0
    for start in range(0, columns, group or columns):
        weights = min(columns, start + (group or columns)) - start
        stored += weights * bits + scale_bits + zero_bits
    return out * stored / (out * columns)
