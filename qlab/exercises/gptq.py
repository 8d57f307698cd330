"""Exercises of lesson 05: one block of GPTQ, the rest of the layer touched once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

ROUNDING = 1e-9
"""Of the largest weight: float64 sums of 32 products in another order, times the growth of U, move it far less."""

Case = tuple[str, tuple[Tensor, Tensor, Tensor, int, int]]


def _layer(g: Generator, out: int, n: int, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Weights [out, n], U of correlated inputs [n, n], a scale per output that lets a few weights clip, and a block."""
    X = torch.randn(4 * n, n, generator=g, dtype=torch.float64)
    X = X + X.roll(1, 1) * torch.rand(n, generator=g, dtype=torch.float64)
    W = torch.randn(out, n, generator=g, dtype=torch.float64)
    U = torch.linalg.cholesky(torch.linalg.inv(X.T @ X), upper=True)
    return W, U, W.abs().amax(1) / 4, start, stop


def _cases(g: Generator) -> Iterator[Case]:
    yield "the first 4 of 16 columns", _layer(g, 6, 16, 0, 4)
    yield "a block in the middle", _layer(g, 5, 24, 8, 16)
    yield "the last block, with nothing behind it", _layer(g, 4, 12, 8, 12)
    yield "a last block that is shorter", _layer(g, 4, 11, 8, 11)
    yield "blocks of one column", _layer(g, 3, 8, 2, 3)
    yield "the whole layer as one block", _layer(g, 8, 32, 0, 32)
    W, U, scale, start, stop = _layer(g, 4, 10, 2, 6)
    yield "no correlation: nothing may move", (W, U.diag().diag(), scale, start, stop)
    W, U, scale, start, stop = _layer(g, 4, 12, 0, 6)
    yield "weights far outside the grid", (5 * W, U, scale, start, stop)


@exercise("gptq.block_step", _cases, tolerance=ROUNDING)
def block_step(W: Tensor, U: Tensor, scale: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """W [out, in] after columns start … stop − 1 are quantized, and E [out, stop − start] with e = (w − q)/U_jj.

    Levels are scale·(−4 … 3), scale [out]. Columns of the block hold their levels, later ones have moved, earlier ones
    are as they were (arXiv 2210.17323, algorithm 1). In numpy and without a block, one outer product at a time, so
    that it shares nothing with qlab.methods.gptq.
    """
    V, factor, s = W.numpy().copy(), U.numpy(), scale.numpy()
    errors = []
    for j in range(start, stop):
        q = s * np.clip(np.round(V[:, j] / s), -4, 3)
        errors.append((V[:, j] - q) / factor[j, j])
        V[:, j + 1 :] -= np.outer(errors[-1], factor[j, j + 1 :])
        V[:, j] = q
    return torch.from_numpy(V), torch.from_numpy(np.stack(errors, axis=1))
