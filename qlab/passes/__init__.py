"""Passes: block → Plan, before the methods, one file each. Any pass composes with any method, and with other passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from qlab.families import Fold
from qlab.plan import LinearPlan, Plan
from qlab.registry import Registry
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Steps


@runtime_checkable
class Block(Protocol):
    """One transformer block as a pass sees it: float still, with what earlier passes chose already folded in.

    linears: those to be quantized, by name inside the block, in the order they run in; specs, stats and plans (what
    earlier passes chose) by the same names. folds: where scales can go; none for a family qlab does not know.
    inputs: batches [samples, tokens, hidden] as the quantized predecessors send them.
    """

    name: str
    linears: Mapping[str, nn.Linear]
    specs: Mapping[str, QuantSpec]
    stats: Mapping[str, Stats]
    plans: Mapping[str, LinearPlan]
    folds: Sequence[Fold]
    inputs: Sequence[Tensor]

    def target(self, batch: int) -> Tensor:
        """What the float block answers to a batch: the float model's own where a pass needs "float_inputs"."""
        ...

    def forward(self, X: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The block's output on X [samples, tokens, hidden] with some weights replaced, by linear name.

        Differentiable in the weights.
        """
        ...


@runtime_checkable
class Pass(Protocol):
    """AWQ, clipping, learned rounding …: what to change in a block so that it quantizes well.

    needs: statistics of the linears' inputs it cannot do without ("abs", "gram"), and "float_inputs" where its targets
    come from the float model's own inputs.
    """

    name: str
    needs: frozenset[str]

    def steps(self, block: Block) -> Steps[Plan]:
        """Yield Steps while searching and return the Plan that the driver folds and hands to the methods."""
        ...


PASSES: Registry = Registry("pass")
register_pass = PASSES.register
get_pass = PASSES.get
pass_names = PASSES.names

from qlab.passes import autoround, awq, clip  # noqa: E402, F401  (the decorators in them fill PASSES)
