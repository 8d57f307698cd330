"""Exercise of lesson 16: codes of 4 bits into the bytes of a tile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

ROWS, BLOCK = 16, 32


def _cases(g: Generator) -> Iterator[tuple[str, tuple[Tensor]]]:
    def rand(columns: int) -> Tensor:
        return torch.randint(16, (ROWS, columns), generator=g, dtype=torch.uint8)

    fours = (torch.arange(BLOCK) // 4).to(torch.uint8)
    yield "the number of its column's four, in every column", (fours.repeat(ROWS, 1),)
    yield "the number of its row, in every row", (torch.arange(ROWS, dtype=torch.uint8)[:, None].repeat(1, BLOCK),)
    for row, column in ((0, 0), (0, 3), (0, 4), (1, 0), (15, 31), (7, 18)):
        codes = torch.zeros(ROWS, BLOCK, dtype=torch.uint8)
        codes[row, column] = 15
        yield f"one code alone, row {row}, column {column}", (codes,)
    yield "random codes", (rand(BLOCK),)
    yield "all codes 15", (torch.full((ROWS, BLOCK), 15, dtype=torch.uint8),)
    yield "three blocks", (rand(3 * BLOCK),)
    yield "codes that are a view into others", (rand(4 * BLOCK)[:, BLOCK : 3 * BLOCK],)


@exercise("kernels.pack_tile", _cases)
def pack_tile(codes: Tensor) -> Tensor:
    """The bytes uint8 [blocks, 256] of codes uint8 [16, 32·blocks] of 4 bits, as `kernels/cpu/tiles.h` lays them.

    Byte by byte from that definition, so that it shares nothing with an answer in whole tensors.
    """
    table = codes.numpy()
    out = np.zeros((table.shape[1] // BLOCK, 256), np.uint8)
    for b, at in np.ndindex(out.shape):
        vector, r, i = at // 64, at % 64 // 4, at % 4
        low, high = (table[r, BLOCK * b + 4 * (2 * vector + q) + i] for q in (0, 1))
        out[b, at] = low | high << 4
    return torch.from_numpy(out)
