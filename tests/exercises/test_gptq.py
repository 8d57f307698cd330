"""Lesson 05's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import torch

from qlab.exercises.gptq import block_step
from tests.exercises.judged import (  # noqa: F401 (tests)
    test_a_plausible_mistake_fails,
    test_the_helper_without_a_mistake_passes,
    test_the_solution_passes,
    test_the_stub_fails,
)

NAME = "gptq.block_step"
LESSON = "05"


def nearest(w, scale, low=-4, high=3):
    return scale * torch.round(w / scale).clamp(low, high)


def attempt(W, U, scale, start, stop, *, inside=True, divide=True, after=True, sign=-1, turn=False, low=-4, high=3,
         plain=False, keep=False, last=False):  # fmt: skip
    """The right answer, with one thing wrong by choice."""
    W, factor = W.clone(), U.T if turn else U
    E = torch.zeros(len(W), stop - start, dtype=W.dtype)
    for j in range(start, stop):
        q = nearest(W[:, j], scale, low, high)
        E[:, j - start] = (W[:, j] - q) / (U[j, j] if divide else 1)
        if inside:
            W[:, j + 1 : stop] += sign * torch.outer(E[:, j - start], factor[j, j + 1 : stop])
        if not keep:
            W[:, j] = q
    if after:
        first = stop - 1 if last else start
        W[:, stop:] += sign * E[:, first - start :] @ factor[first:stop, stop:]
    return W, E * U.diag()[start:stop] if plain else E


WRONG = {
    "the block rounded at once": {"inside": False},
    "the rest never updated": {"after": False},
    "the rest takes the last error only": {"last": True},
    "not divided by U_jj": {"divide": False},
    "errors added instead of taken off": {"sign": 1},
    "along a column of U": {"turn": True},
    "no clamp": {"low": -100, "high": 100},
    "a level too many": {"high": 4},
    "E is the plain rounding error": {"plain": True},
    "the block's own columns not rounded": {"keep": True},
}


def test_oracle_by_hand():
    # the lesson's two weights: H = [[1, .8], [.8, 1]] has U = [[5/3, -4/3], [0, 1]]; 0.4 rounds to 0
    U = torch.tensor([[5 / 3, -4 / 3], [0.0, 1.0]], dtype=torch.float64)
    W, E = block_step(torch.tensor([[0.4, 1.3]], dtype=torch.float64), U, torch.ones(1, dtype=torch.float64), 0, 1)
    assert torch.allclose(W, torch.tensor([[0.0, 1.62]], dtype=torch.float64))
    assert torch.allclose(E, torch.tensor([[0.24]], dtype=torch.float64))
