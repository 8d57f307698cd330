"""Lesson 09's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import pytest
import torch

from qlab.exercises.kquants import fit
from qlab.methods.ggml_search import search_affine
from tests.exercises.judged import (  # noqa: F401 (tests)
    test_a_plausible_mistake_fails,
    test_the_helper_without_a_mistake_passes,
    test_the_solution_passes,
    test_the_stub_fails,
)

NAME = "kquants.fit"
LESSON = "09"


def attempt(x, codes, w, *, weighted=True, clamp=True, refit=True, swapped=False, root=False, by_range=False):
    """The right answer, with one thing wrong by choice."""
    w = w if weighted else torch.ones_like(w)
    w = w.sqrt() if root else w
    S, Sx, Sq, Sqq, Sqx = w.sum(), (w * x).sum(), (w * codes).sum(), (w * codes * codes).sum(), (w * codes * x).sum()
    D = S * Sqq - Sq * Sq
    scale, minimum = (S * Sqx - Sx * Sq) / D, (Sqq * Sx - Sq * Sqx) / D
    if by_range:
        minimum = x.min().clamp(max=0)
        scale = (x.max() - minimum) / codes.max()
    if clamp and minimum > 0:
        scale, minimum = Sqx / Sqq if refit else scale, 0.0
    return (float(minimum), float(scale)) if swapped else (float(scale), float(minimum))


WRONG = {
    "unweighted": {"weighted": False},
    "the root of the weights": {"root": True},
    "minimum not clamped": {"clamp": False},
    "scale not fitted again after clamping": {"refit": False},
    "min-max": {"by_range": True},
    "the wrong way round": {"swapped": True},
}


def test_oracle_by_hand():
    x, codes = torch.tensor([0.0, 1.1, 1.9, 3.6], dtype=torch.float64), torch.arange(4.0).double()
    assert fit(x, codes, torch.ones(4).double()) == pytest.approx((1.16, -0.09), rel=1e-12)
    # all positive: Σxq/Σq² = (0.5 + 2·0.9 + 3·1.4)/14 on the bound
    x = torch.tensor([0.3, 0.5, 0.9, 1.4], dtype=torch.float64)
    assert fit(x, codes, torch.ones(4).double()) == (pytest.approx(6.5 / 14), 0.0)


def test_the_oracle_is_what_the_search_keeps():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(32, 1, generator=g, dtype=torch.float64)
    w = x.abs() + 1
    *_, last = steps = list(found(x, w))
    assert len(steps) > 1
    scale, minimum = fit(x[:, 0], last.codes[:, 0], w[:, 0])
    assert (float(last.scale), float(last.minimum)) == pytest.approx((scale, minimum), rel=1e-9)


def found(x, w):
    """The search's steps, and what it returns."""
    yield (yield from search_affine(x, w, 15, -1.0, 0.1, 20))
