"""The shape of a pass: what AWQ and its kin will be given, and what they give back."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from qlab.families import Fold
from qlab.passes import Block, Pass, get_pass, register_pass
from qlab.plan import LinearPlan, Plan, Transform
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Step, Steps, drain


def block() -> Block:
    linear = torch.nn.Linear(4, 2, bias=False)
    stats = Stats(4)
    stats.update(torch.arange(8.0).reshape(2, 4))
    X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

    def forward(X: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return X @ weights.get("up", linear.weight).detach().T

    return SimpleNamespace(
        name="layers.0", linears={"up": linear}, folds=[Fold(("up",), "norm")], stats={"up": stats}, inputs=[X],
        specs={"up": QuantSpec.parse("int4-row-sym")}, plans={"up": LinearPlan()}, forward=forward,
        target=lambda batch: forward(X, {}),
    )  # fmt: skip


@register_pass("square_root_scale_test")
@dataclass(frozen=True)
class SquareRootScale:
    """What AWQ does with alpha fixed at one half: scale each input channel by √mean|x|."""

    needs = frozenset({"abs"})

    def steps(self, block: Block) -> Steps[Plan]:
        scale = block.stats["up"].mean_abs.sqrt()
        output = block.forward(block.inputs[0], {"up": block.linears["up"].weight * 1.01})
        loss = float((output - block.target(0)).square().sum())
        yield Step("scale", 0, 1, loss, data={"scale": scale})
        return Plan((Transform(("up",), "in", scale, ("norm",)),), {"up": LinearPlan()})


def test_a_pass_sees_a_block_and_returns_a_plan() -> None:
    chosen = get_pass("square_root_scale_test")
    assert isinstance(chosen, Pass) and isinstance(block(), Block)
    steps = list(chosen.steps(block()))
    assert steps[0].error > 0
    plan = drain(chosen.steps(block()))
    assert plan.transforms[0].fold_into == ("norm",)
    assert torch.equal(plan.transforms[0].matrix, torch.tensor([2.0, 3.0, 4.0, 5.0], dtype=torch.float64).sqrt())
