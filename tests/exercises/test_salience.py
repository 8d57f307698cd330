"""Lesson 06's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import torch

from qlab.exercises.salience import nearest, scale_salient
from tests.exercises.judged import (  # noqa: F401 (tests)
    test_a_plausible_mistake_fails,
    test_the_helper_without_a_mistake_passes,
    test_the_solution_passes,
    test_the_stub_fails,
)

NAME = "salience.scale_salient"
LESSON = "06"


def attempt(W, mean_abs, share, s, nearest, *, back=True, quiet=False, heavy=False, everything=False, down=False,
            floor=False, before=False):  # fmt: skip
    """The right answer, with one thing wrong by choice."""
    by = W.norm(dim=0) if heavy else -mean_abs if quiet else mean_abs
    count = int(share * W.shape[1]) if floor else max(1, round(share * W.shape[1]))
    scale = torch.ones(W.shape[1], dtype=W.dtype)
    scale[by.argsort(descending=True)[:count]] = 1 / s if down else s
    if everything:
        scale = torch.full_like(scale, s)
    if before:
        return nearest(W) * scale / scale
    W_hat = nearest(W * scale)
    return W_hat / scale if back else W_hat


WRONG = {
    "not scaled back": {"back": False},
    "the quietest channels": {"quiet": True},
    "the channels with the largest weights": {"heavy": True},
    "every channel": {"everything": True},
    "scaled down instead of up": {"down": True},
    "rounded before it is scaled": {"before": True},
    "a share of less than one channel protects none": {"floor": True},
}


def test_oracle_by_hand():
    W = torch.tensor([[4.0, 0.9]], dtype=torch.float64)  # step 1: 4 saturates at 3, 0.9 becomes 1
    got = scale_salient(W, torch.tensor([0.1, 5.0]), 0.5, 2.0, nearest)
    assert torch.equal(got, torch.tensor([[3.0, 1.0]], dtype=torch.float64))  # 1.8 rounds to 2, and back
    got = scale_salient(W, torch.tensor([0.1, 5.0]), 0.5, 3.0, nearest)
    assert torch.allclose(got, torch.tensor([[3.0, 1.0]], dtype=torch.float64))  # 2.7 to 3
