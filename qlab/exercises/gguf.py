"""Exercise of lesson 08: the six-bit scales and minima of Q4_K, out of their twelve bytes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

Case = tuple[str, tuple[Tensor]]


def _cases(g: Generator) -> Iterator[Case]:
    yield "one block of random bytes", (torch.randint(256, (1, 12), generator=g),)
    yield "many blocks", (torch.randint(256, (50, 12), generator=g),)
    yield "all bits set: 63 everywhere", (torch.full((1, 12), 255),)
    yield "nothing set", (torch.zeros(2, 12, dtype=torch.int64),)
    for byte in range(12):
        alone = torch.zeros(2, 12, dtype=torch.int64)
        alone[0, byte], alone[1, byte] = 0b10100110, 0b01011001
        yield f"byte {byte} alone", (alone,)


@exercise("gguf.sixes", _cases)
def sixes(s: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima [blocks, 8] of Q4_K's bytes s int64 [blocks, 12]; layout: ggml `get_scale_min_k4`.

    Bit by bit, from a table of where each of a number's six bits lies: (byte, bit), the lowest first.
    """
    scales = [_places(j, 0) for j in range(8)]
    minima = [_places(j, 4) for j in range(8)]
    return _gather(s, scales), _gather(s, minima)


def _places(j: int, first: int) -> list[tuple[int, int]]:
    """first: the byte where the group-0 number of this kind lies, which is also its nibble's place in bytes 8 … 11."""
    if j < 4:
        return [(first + j, bit) for bit in range(6)]
    return [(4 + j, first + bit) for bit in range(4)] + [(first + j - 4, 6), (first + j - 4, 7)]


def _gather(s: Tensor, places: list[list[tuple[int, int]]]) -> Tensor:
    return torch.stack([sum(((s[:, byte] >> bit) & 1) << i for i, (byte, bit) in enumerate(p)) for p in places], 1)  # type: ignore[misc]
