"""Exercise of lesson 07: the search for α on one linear."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise
from qlab.exercises.salience import nearest

Case = tuple[str, tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]]
ROUNDING = 1e-9


def _cases(g: Generator) -> Iterator[Case]:
    def layer(out: int, n: int, loudest: float) -> tuple[Tensor, Tensor]:
        W = torch.randn(out, n, generator=g, dtype=torch.float64)
        loud = torch.ones(n, dtype=torch.float64)
        loud[torch.randperm(n, generator=g)[: max(1, n // 10)]] = loudest
        return W, torch.randn(6 * n, n, generator=g, dtype=torch.float64) * loud

    yield "one loud channel in ten", (*layer(8, 20, 10.0), nearest)
    yield "louder still", (*layer(12, 24, 60.0), nearest)
    yield "all alike: little to find", (*layer(6, 16, 1.0), nearest)
    yield "one output", (*layer(1, 12, 20.0), nearest)
    W, X = layer(8, 16, 15.0)
    yield "small numbers throughout", (W, 1e-3 * X, nearest)
    W, X = layer(6, 10, 1.0)
    W, X = W.round().clamp(-4, 3), X
    W[:, 0] = -4.0
    yield "weights on the grid already: no scale is best", (W, X, nearest)


@exercise("awq.search", _cases, tolerance=ROUNDING)
def search(W: Tensor, X: Tensor, nearest: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
    """The best α of 0, 0.05 … 1 and its scales [in]: s = x^α, divided by √(max s · min s).

    x is the mean |X| per channel; best: least ‖X·(W − Ŵ)ᵀ‖², the first among equals (arXiv 2306.00978, eq. 4 and 5).
    In numpy, all candidates first and then the least.
    """
    x = np.abs(X.numpy()).mean(0)
    scales = [x ** (k / 20) for k in range(21)]
    scales = [s / np.sqrt(s.max() * s.min()) for s in scales]
    losses = []
    for s in scales:
        W_hat = nearest(torch.from_numpy(W.numpy() * s)).numpy() / s
        losses.append(float(np.square(X.numpy() @ (W.numpy() - W_hat).T).sum()))
    least = int(np.argmin(losses))
    return least / 20, torch.from_numpy(scales[least])
