"""The ladder of lesson kernels: every step multiplies the same."""

import pytest
import torch
from qlab.kernels.triton import steps
from triton_cases import BOUND, error, inputs


@pytest.mark.parametrize("one", steps.LADDER, ids=lambda one: one.name)
def test_every_step(one):
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (128, 1024), dtype=torch.uint8, generator=draw)
    scale = (torch.rand(8, 128, generator=draw) * 0.01 + 0.01).half()
    W = (codes.double() - 8) * scale.double().T.repeat_interleave(128, 1)
    X = inputs(5, 1024)
    assert error(steps.run(one, X, steps.store(codes, one), scale), X.double() @ W.T) < BOUND


def test_each_step_keeps_what_the_one_before_had():
    for before, after in zip(steps.LADDER, steps.LADDER[1:], strict=False):
        changed = {name for name in before.constants if before.constants[name] != after.constants[name]}
        assert 1 <= len(changed) <= 2, after.name
