"""Lesson 02's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import pytest
import torch

from qlab.exercises import check
from qlab.exercises.outliers import mixed_product
from tests.exercises.notebook_cells import function, tagged

NAME = "outliers.mixed_product"


def rows(A, top=127, guard=True):
    scale = A.abs().amax(dim=1, keepdim=True) / top
    if guard:
        scale[scale == 0] = 1.0
    return scale * torch.round(A / scale)


def product(X, W, outlier, *, top=127, guard=True, exact=True, late=False):
    """The right answer, with one thing wrong by choice."""
    clean = (lambda A: rows(A, top, guard).masked_fill(outlier, 0)) if late else (
        lambda A: rows(A.masked_fill(outlier, 0), top, guard))  # fmt: skip
    return clean(X) @ clean(W).T + (X[:, outlier] @ W[:, outlier].T if exact else 0)


def mask(X, threshold):
    return (X.abs() > threshold).any(0)


WRONG = {
    "no decomposition": lambda X, W, t: rows(X) @ rows(W).T,
    "outliers dropped": lambda X, W, t: product(X, W, mask(X, t), exact=False),
    "scales taken before the outliers left": lambda X, W, t: product(X, W, mask(X, t), late=True),
    "threshold included": lambda X, W, t: product(X, W, (X.abs() >= t).any(0)),
    "channels by their mean": lambda X, W, t: product(X, W, X.abs().mean(0) > t),
    "every token must be large": lambda X, W, t: product(X, W, (X.abs() > t).all(0)),
    "signs forgotten": lambda X, W, t: product(X, W, (t < X).any(0)),
    "divided by 128": lambda X, W, t: product(X, W, mask(X, t), top=128),
    "no guard for zeros": lambda X, W, t: product(X, W, mask(X, t), guard=False),
    "nothing rounded": lambda X, W, t: X @ W.T,
}


def test_the_stub_fails():
    verdict = check(NAME, function(tagged("02", "exercise-stub"), "mixed_product"))
    assert not verdict
    assert "stub" in verdict.complaint


def test_the_solution_passes():
    assert check(NAME, function(tagged("02", "exercise-solution"), "mixed_product"))


@pytest.mark.parametrize("name", WRONG)
def test_a_plausible_mistake_fails(name):
    assert not check(NAME, WRONG[name])


def test_oracle_by_hand():
    # channel 0 is exact: 10·2; channel 1 alone has scale 1.27/127 = 0.01 and survives, its weight 1 too: 1.27·1
    assert torch.allclose(
        mixed_product(torch.tensor([[10.0, 1.27]]), torch.tensor([[2.0, 1.0]]), 6.0), torch.tensor(21.27)
    )
