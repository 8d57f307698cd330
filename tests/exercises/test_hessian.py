"""Lesson 04's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import pytest
import torch

from qlab.exercises.hessian import compensate
from tests.exercises.judged import (  # noqa: F401 (tests)
    test_a_plausible_mistake_fails,
    test_the_helper_without_a_mistake_passes,
    test_the_solution_passes,
    test_the_stub_fails,
)

NAME = "hessian.compensate"
LESSON = "04"


def attempt(H, j, helpers, *, sign=-1, own=False, everyone=False, inverse=False, diagonal=False, alone=False,
            half=False):  # fmt: skip
    """The right answer, with one thing wrong by choice."""
    F = torch.arange(len(H))[torch.arange(len(H)) != j] if everyone else helpers
    delta = torch.zeros(len(H), dtype=H.dtype)
    if inverse:  # the formula for everyone, cut down to the helpers
        G = torch.linalg.inv(H)
        delta[F] = sign * -G[F, j] / G[j, j]
    elif diagonal:
        delta[F] = sign * H[F, j] / H.diag()[F]
    else:
        delta[F] = sign * torch.linalg.solve(H[F][:, F], H[F, j])
    off = delta.clone()
    off[j] += 1
    cost = H[j, j] if alone else off @ H @ off
    if own:
        delta[j] = 1
    return delta, cost / 2 if half else cost


WRONG = {
    "the helpers double the error": {"sign": 1},
    "everyone helps": {"everyone": True},
    "the inverse of the whole H": {"inverse": True, "sign": -1},
    "each helper as if it were the only one": {"diagonal": True},
    "the cost before anyone helps": {"alone": True},
    "half the cost": {"half": True},
    "the error itself among the changes": {"own": True},
}


def test_oracle_by_hand():
    H = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    delta, cost = compensate(H, 0, torch.tensor([1]))
    assert torch.allclose(delta, torch.tensor([0, -0.8], dtype=torch.float64)) and cost == pytest.approx(0.36)
