"""LinearPlan: clipping is what it says, and absent parts change nothing."""

import torch

from qlab.plan import LinearPlan, Plan, Transform


def test_clipping() -> None:
    W = torch.tensor([[-3.0, 0.5, 4.0]])
    assert LinearPlan().clipped(W) is W
    limits = (torch.tensor([[-1.0]]), torch.tensor([[2.0]]))
    assert LinearPlan(limits).clipped(W).tolist() == [[-1.0, 0.5, 2.0]]


def test_a_plan_names_its_linears() -> None:
    fold = Transform(("q_proj", "k_proj"), "in", torch.ones(4), fold_into=("input_layernorm",))
    plan = Plan((fold,), {"q_proj": LinearPlan(bias=torch.zeros(2))})
    assert plan.transforms[0].linears == ("q_proj", "k_proj") and plan.linears["q_proj"].rounding is None
