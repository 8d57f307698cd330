"""Exercises of lesson 01: from a range to levels and back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

ROUNDING = 1e-6
"""Eight float32 roundings (2⁻²⁴ each, relative) of the largest value: products and sums in another order."""


def _cases(g: Generator) -> Iterator[tuple[str, tuple[Tensor, int]]]:
    """W [groups, size] and bits; halves lie on exact powers of two, so that no order of operations moves them."""
    yield "the group done by hand", (torch.tensor([[-1.5, -0.7, -0.2, 0.0, 0.3, 0.8, 1.1, 6.0]]), 4)
    yield "one group of random weights", (torch.randn(1, 64, generator=g), 4)
    yield "groups of very different size", (torch.randn(6, 32, generator=g) * torch.logspace(-3, 3, 6)[:, None], 3)
    yield "a group far above zero", (1 + 0.1 * torch.rand(2, 16, generator=g), 4)
    yield "a group far below zero", (-3 - torch.rand(2, 16, generator=g), 4)
    yield "an all-zero group among others", (torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [0.1, 0.2, -0.3]]), 4)
    yield "halves: steps of exactly 1, zero point 5", (torch.tensor([[-5.0, 10.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]]), 4)
    yield "the top weight rounds past the last level", (torch.tensor([[-3.5, 11.5, 1.0, 4.0]]), 4)
    yield "tiny weights", (torch.randn(2, 32, generator=g) * 1e-9, 4)
    yield "two bits", (torch.randn(3, 48, generator=g), 2)
    yield "eight bits", (torch.randn(3, 48, generator=g), 8)


@exercise("grids.round_trip", _cases, tolerance=ROUNDING)
def round_trip(W: Tensor, bits: int) -> Tensor:
    """W_hat of `W` [groups, size] under the rule `asym`: zero forced into each row's range, codes 0 … 2^bits − 1.

    In numpy and one group at a time, from the equations, so that it shares nothing with qlab.ranges.
    """
    return torch.from_numpy(np.stack([_group(row, 2**bits - 1) for row in W.numpy()]))


def _group(w: np.ndarray, top: int) -> np.ndarray:
    """One group there and back, in its own dtype."""
    lo, hi = min(w.min(), w.dtype.type(0)), max(w.max(), w.dtype.type(0))
    if lo == hi:
        return np.zeros_like(w)
    scale = (hi - lo) / top
    zero = np.rint(-lo / scale)
    return (scale * (np.clip(np.rint(w / scale) + zero, 0, top) - zero)).astype(w.dtype)
