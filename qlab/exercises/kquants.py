"""Exercise of lesson 09: the best scale and minimum for codes that stand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

Case = tuple[str, tuple[Tensor, Tensor, Tensor]]
ROUNDING = 1e-8
"""Of the larger of the two: float64 sums of 32 products, times the condition of two unknowns, lose far less."""


def _cases(g: Generator) -> Iterator[Case]:
    def rand(n: int) -> Tensor:
        return torch.rand(n, generator=g, dtype=torch.float64)

    def group(n: int, top: int, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
        x = low + (high - low) * rand(n)
        x[0], x[1] = low, high
        codes = ((x - low) * (top / (high - low))).round()
        return x, codes, x.abs() + x.square().mean().sqrt()

    hand = torch.tensor([0.0, 1.1, 1.9, 3.6], dtype=torch.float64)
    yield "the group done by hand", (hand, torch.arange(4.0, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    yield "32 weights on 16 levels", group(32, 15, -0.5, 0.7)
    yield "2 bits: 16 weights on 4 levels", group(16, 3, -0.2, 0.3)
    yield "all weights positive: the free minimum would be positive", group(32, 15, 0.4, 1.0)
    yield "all weights negative", group(32, 15, -1.0, -0.4)
    x, codes, w = group(32, 15, -0.6, 0.4)
    yield "one weight counts a thousand times", (x, codes, torch.where(x == x.max(), 1000.0, w))
    yield "weights that do not count at all", (x, codes, torch.where(rand(32) < 0.5, 0.0, w) + (x.abs() > 0.35))
    yield "tiny weights", (1e-6 * x, codes, w)
    yield "codes of another grid", (x, (codes - 3).clamp(0, 9), w)


@exercise("kquants.fit", _cases, tolerance=ROUNDING)
def fit(x: Tensor, codes: Tensor, w: Tensor) -> tuple[float, float]:
    """The scale and the minimum ≤ 0 with the least Σ w·(x − (scale·code + minimum))², all [group]; codes differ.

    A convex problem of two unknowns: if its free minimum is positive, the best lies on the bound minimum = 0. In numpy,
    by least squares on rows scaled by √w, so that it shares nothing with an answer in closed form.
    """
    root, c = np.sqrt(w.numpy()), codes.numpy()
    columns = np.stack([c, np.ones_like(c)], 1)
    scale, minimum = np.linalg.lstsq(root[:, None] * columns, root * x.numpy(), rcond=None)[0]
    if minimum > 0:
        scale, minimum = np.linalg.lstsq((root * c)[:, None], root * x.numpy(), rcond=None)[0][0], 0.0
    return float(scale), float(minimum)
