"""Lesson 07's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import torch

from qlab.exercises.awq import search
from qlab.exercises.salience import nearest
from tests.exercises.judged import (  # noqa: F401 (tests)
    test_a_plausible_mistake_fails,
    test_the_helper_without_a_mistake_passes,
    test_the_solution_passes,
    test_the_stub_fails,
)

NAME = "awq.search"
LESSON = "07"


def attempt(W, X, nearest, *, back=True, weights=False, open_end=False, coarse=False, plain=False, largest=False,
            bare=False, worst=False):  # fmt: skip
    """The right answer, with one thing wrong by choice."""
    x = X.abs().amax(0) if largest else X.abs().mean(0)
    x = W.abs().mean(0) if weights else x
    best = None
    for k in range(0, 20 if open_end else 21, 4 if coarse else 1):
        s = x.pow(k / 20)
        s = s if bare else s / (s.max() * s.min()).sqrt()
        W_hat = nearest(W * s) / (s if back else 1)
        E = W - W_hat
        loss = float(E.square().sum() if plain else (X @ E.T).square().sum())
        if best is None or (loss > best[0] if worst else loss < best[0]):
            best = (loss, k / 20, s)
    return best[1], best[2]


WRONG = {
    "not scaled back": {"back": False},
    "saliency of the weights": {"weights": True},
    "a grid of five": {"coarse": True},
    "the error of the weights": {"plain": True},
    "the largest instead of the mean": {"largest": True},
    "scales not divided": {"bare": True},
    "the worst instead of the best": {"worst": True},
}


def test_oracle_where_nothing_is_lost():
    W = torch.tensor([[-4.0, 3.0, 1.0]], dtype=torch.float64)  # on the grid of step 1
    X = torch.eye(3, dtype=torch.float64)
    alpha, scale = search(W, X, nearest)
    assert alpha == 0 and torch.equal(scale, torch.ones(3, dtype=torch.float64))
