"""Exercise of lesson 04: the best that the open weights can do about an error that is already made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

ROUNDING = 1e-8
"""Of the largest entry: solving with a Gram matrix loses its condition, at most 1e5 here, times float64's 1e-16."""

Case = tuple[str, tuple[Tensor, int, Tensor]]


def _gram(g: Generator, n: int) -> Tensor:
    """XᵀX of correlated inputs, [n, n]."""
    X = torch.randn(4 * n, n, generator=g, dtype=torch.float64)
    X = X + X.roll(1, 1) * torch.rand(n, generator=g, dtype=torch.float64)
    return X.T @ X


def _cases(g: Generator) -> Iterator[Case]:
    def those(*columns: int) -> Tensor:
        return torch.tensor(columns, dtype=torch.int64)

    pair = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    yield "the two weights of the lesson", (pair, 0, those(1))
    yield "everyone else may help", (_gram(g, 12), 3, torch.arange(12)[torch.arange(12) != 3])
    yield "only the columns after it", (_gram(g, 12), 5, torch.arange(6, 12))
    yield "three helpers, out of order", (_gram(g, 16), 7, those(11, 2, 9))
    yield "nobody may help", (_gram(g, 8), 7, those())
    alone = torch.arange(1.0, 7.0, dtype=torch.float64).diag()
    yield "inputs that have nothing in common", (alone, 2, those(0, 5))
    loud = torch.logspace(-2, 2, 6, dtype=torch.float64)
    alike = 0.5 + 0.5 * torch.eye(6, dtype=torch.float64)
    yield "loud and quiet inputs", (torch.outer(loud, loud) * alike, 1, those(0, 2, 3, 4, 5))


@exercise("hessian.compensate", _cases, tolerance=ROUNDING)
def compensate(H: Tensor, j: int, helpers: Tensor) -> tuple[Tensor, Tensor]:
    """The change [n] of the `helpers` that loses least when weight j is off by 1, and what is still lost, εᵀHε.

    δ_F = −H_FF⁻¹ H_Fj, the rest 0 (Hassibi & Stork 1992, eq. 5, on the open weights F). By least squares on a square
    root of H, so that it shares nothing with an answer that solves with H.
    """
    values, vectors = np.linalg.eigh(H.numpy())
    root = np.sqrt(values.clip(0))[:, None] * vectors.T  # rootᵀ·root = H
    delta = np.zeros(len(H))
    free = helpers.numpy()
    if len(free):
        delta[free] = np.linalg.lstsq(root[:, free], -root[:, j], rcond=None)[0]
    off = root @ delta + root[:, j]
    return torch.from_numpy(delta), torch.tensor(float(off @ off), dtype=torch.float64)
