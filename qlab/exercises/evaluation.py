"""Exercises of lesson 03: what a difference between two models is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

ROUNDING = 1e-9
"""Float64 sums of a few hundred terms in another order differ by less: 1e3 · 2^-53 · cancellation of 1e3."""


def _texts(g: Generator, windows: int, tokens: int, shift: float, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """Losses [windows, tokens] of two models: windows differ in difficulty, and in what the second model finds hard."""
    hard = torch.randn(windows, 1, generator=g, dtype=torch.float64) * spread
    base = (2.8 + hard + 1.2 * torch.randn(windows, tokens, generator=g, dtype=torch.float64)).abs()
    window = 0.05 * torch.randn(windows, 1, generator=g, dtype=torch.float64)
    return base + shift + window + 0.3 * torch.randn(windows, tokens, generator=g, dtype=torch.float64), base


def _cases(g: Generator) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    yield (
        "two windows of two tokens",
        (torch.tensor([[1.0, 3.0], [2.0, 4.0]]).double(), torch.tensor([[1.0, 2.0], [1.0, 2.0]]).double()),
    )
    yield "a model 5% worse, 12 windows", _texts(g, 12, 64, 0.05)
    yield "a better model", _texts(g, 8, 32, -0.2)
    yield "easy and hard windows", _texts(g, 6, 40, 0.1, spread=1.5)
    yield "more tokens in a window than windows", _texts(g, 3, 200, 0.02)
    losses, _ = _texts(g, 5, 16, 0.0)
    yield "the reference against itself", (losses, losses)
    yield "float32 losses, as evaluate keeps them", tuple(x.float().double() for x in _texts(g, 10, 24, 0.03))
    yield "one window, whose error nobody knows", _texts(g, 1, 30, 0.1)


@exercise("evaluation.paired_ratio", _cases, tolerance=ROUNDING)
def paired_ratio(losses: Tensor, reference: Tensor) -> tuple[float, float]:
    """Perplexity ratio of two models on the same tokens and its standard error, tokens clustered by window.

    losses, reference [windows, tokens], nats. Nan for the error with one window. In numpy, from the definition of a
    cluster-robust variance, so that it shares nothing with qlab.metrics.
    """
    difference = losses.numpy().astype(np.float64) - reference.numpy().astype(np.float64)
    C, n = len(difference), difference.size
    mean = difference.sum() / n
    ratio = math.exp(mean)
    if C < 2:
        return ratio, math.nan
    scores = (difference - mean).sum(1)  # one residual sum per window: tokens inside it may move together
    variance = C / (C - 1) * (scores**2).sum() / n**2
    return ratio, ratio * math.sqrt(variance)
