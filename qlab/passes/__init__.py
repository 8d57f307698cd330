"""Passes: block → Plan, before the methods, one file each. Any pass composes with any method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from qlab.plan import Plan
from qlab.registry import Registry
from qlab.stats import Stats
from qlab.step import Steps


@runtime_checkable
class Block(Protocol):
    """One transformer block as a pass sees it.

    linears: by name inside the block. folds: for each norm or linear that can take a scale, the linears that read its
    output. stats: per linear. inputs: the block's inputs as the quantized predecessors produce them; float_inputs: as
    the float model does; targets: the float block's outputs on `float_inputs`.
    """

    name: str
    linears: Mapping[str, nn.Linear]
    folds: Mapping[str, Sequence[str]]
    stats: Mapping[str, Stats]
    inputs: Sequence[Any]
    float_inputs: Sequence[Any]
    targets: Sequence[Tensor]

    def forward(self, overrides: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """The block's outputs on `inputs` with some weights replaced, by linear name."""
        ...


@runtime_checkable
class Pass(Protocol):
    """AWQ, SmoothQuant, rotations, AutoRound, AffineQuant: what to change in a block so that it quantizes well."""

    name: str

    def steps(self, block: Block) -> Steps[Plan]:
        """Yield Steps while searching and return the Plan that the driver folds and hands to the methods."""
        ...


PASSES: Registry = Registry("pass")
register_pass = PASSES.register
get_pass = PASSES.get
pass_names = PASSES.names
