"""Exercise of lesson 06: scale the salient channels up, round, and scale them back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

Case = tuple[str, tuple[Tensor, Tensor, float, float, Callable[[Tensor], Tensor]]]
ROUNDING = 1e-12


def nearest(W: Tensor) -> Tensor:
    """W [out, in] rounded to 3 bits, one step per row: −4 … 3 times a quarter of the row's largest magnitude."""
    step = W.abs().amax(1, keepdim=True) / 4
    return step * torch.round(W / step).clamp(-4, 3)


def _cases(g: Generator) -> Iterator[Case]:
    def layer(out: int, n: int) -> tuple[Tensor, Tensor]:
        W = torch.randn(out, n, generator=g, dtype=torch.float64)
        return W, torch.rand(n, generator=g, dtype=torch.float64).pow(4)

    yield "one channel in ten, doubled", (*layer(6, 20), 0.1, 2.0, nearest)
    yield "a quarter, times 1.5", (*layer(4, 32), 0.25, 1.5, nearest)
    yield "a share that is not a whole number of channels", (*layer(5, 30), 0.05 + 1e-9, 4.0, nearest)
    yield "less than one channel: then one", (*layer(5, 12), 0.01, 3.0, nearest)
    yield "all of them", (*layer(3, 8), 1.0, 2.0, nearest)
    W, loud = layer(4, 16)
    W[:, int(loud.argmax())] *= 0.01
    yield "the loudest channel has the smallest weights", (W, loud, 0.06, 8.0, nearest)
    W, loud = layer(4, 16)
    yield "a scale that stretches the row's step", (W, loud, 0.2, 50.0, nearest)


@exercise("salience.scale_salient", _cases, tolerance=ROUNDING)
def scale_salient(W: Tensor, mean_abs: Tensor, share: float, s: float, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """W_hat [out, in] with the round(share·in), at least one, loudest input channels scaled by s before rounding.

    Q(W·diag(s))·diag(s)⁻¹ (arXiv 2306.00978, eq. 2); the channels are found by sorting in numpy.
    """
    count = max(1, round(share * W.shape[1]))
    scale = np.ones(W.shape[1])
    scale[np.argsort(-mean_abs.numpy(), kind="stable")[:count]] = s
    return nearest(torch.from_numpy(W.numpy() * scale)) / torch.from_numpy(scale)
