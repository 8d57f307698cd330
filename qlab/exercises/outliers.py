"""Exercises of lesson 02: keep the outlier channels exact, round the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

TOLERANCE = 1e-5
"""Of the largest output: float32 sums of 64 products in another order move it by 64 · 2^-24 = 4e-6 at most."""

Case = tuple[str, tuple[Tensor, Tensor, float]]


def _layer(g: Generator, tokens: int, inputs: int, outputs: int, outliers: int = 0) -> tuple[Tensor, Tensor, float]:
    """Activations of which some channels are 20 times larger, weights, and a threshold that separates the two."""
    X, W = torch.randn(tokens, inputs, generator=g), torch.randn(outputs, inputs, generator=g)
    large = torch.randperm(inputs, generator=g)[:outliers]
    X[:, large] = 20 * (X[:, large].sign() + 0.5 * X[:, large])
    return X, W, 6.0


def _cases(g: Generator) -> Iterator[Case]:
    yield "two outlier channels among 32", _layer(g, 8, 32, 5, outliers=2)
    yield "no outlier at all", _layer(g, 4, 16, 3)
    yield "64 channels, 3 outliers", _layer(g, 16, 64, 8, outliers=3)
    X, W, threshold = _layer(g, 6, 16, 4)
    X[3, 5] = -20.0
    yield "one outlier in one token makes its channel exact for every token", (X, W, threshold)
    X = torch.tensor([[6.0, 1.0, -0.5], [3.0, 0.25, 2.0]])
    yield "a value equal to the threshold is no outlier", (X, torch.tensor([[1.0, 0.3, -0.7]]), 6.0)
    X, W, threshold = _layer(g, 5, 12, 3, outliers=1)
    X[2] = torch.where(X.abs().amax(0) > threshold, X[2], 0.0)
    yield "a token with nothing but its outlier", (X, W, threshold)
    X, W, threshold = _layer(g, 3, 4, 2)
    yield "every channel an outlier", (X.sign() * 10 + X, W, threshold)
    X, W, threshold = _layer(g, 4, 8, 3, outliers=1)
    W[1] = 0.0
    yield "an output row of zeros", (X, W, threshold)


def _rounded_rows(A: np.ndarray) -> np.ndarray:
    """Each row of A [rows, n] on its own int8 grid, absmax/127; a row of zeros stays zeros."""
    absmax = np.abs(A).max(axis=1, keepdims=True)
    scale = np.where(absmax == 0, np.float32(1), absmax / np.float32(127))
    return np.round(A / scale) * scale


@exercise("outliers.mixed_product", _cases, tolerance=TOLERANCE)
def mixed_product(X: Tensor, W: Tensor, threshold: float) -> Tensor:
    """X Wᵀ [tokens, out] with outlier channels exact and the rest in int8: arXiv 2208.07339, eq. 8.

    A channel is an outlier where any |x| > threshold. Both sides of the rest are rounded by absmax/127, a scale per
    token and per output row over the rest alone. In numpy, so that it shares nothing with qlab.ranges.
    """
    X_, W_ = X.numpy(), W.numpy()
    outlier = (np.abs(X_) > threshold).any(axis=0)  # [in]
    rest = _rounded_rows(np.where(outlier, 0, X_)) @ _rounded_rows(np.where(outlier, 0, W_)).T
    return torch.from_numpy(X_[:, outlier] @ W_[:, outlier].T + rest)
