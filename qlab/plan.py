"""What a pass decides for a block before its linears are quantized: the hand-over from `passes/` to `methods/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """An invertible change of one side of some linears, and where its inverse goes.

    matrix: [n] for a diagonal scale, [n, n] for a rotation or affine map; applied as `W · T` on the "in" side and
    `T · W` on the "out" side of each of `linears`. `fold_into` names the modules (a norm, or linears before) that take
    the inverse, so that the float model's output does not change; empty means it must run online.
    """

    linears: tuple[str, ...]
    side: str
    matrix: Tensor
    fold_into: tuple[str, ...] = ()


@dataclass(frozen=True)
class LinearPlan:
    """What a method is told about one linear: limits its weights are clipped to, and learned rounding offsets.

    clip: (lo, hi), broadcastable to W [out, in]. rounding: [out, in] in grid units, added before rounding.
    bias: [out], added to the linear's bias to correct the mean error.
    """

    clip: tuple[Tensor, Tensor] | None = None
    rounding: Tensor | None = None
    bias: Tensor | None = None

    def clipped(self, W: Tensor) -> Tensor:
        """W within the limits of `clip`."""
        return W if self.clip is None else W.clamp(*self.clip)

    def then(self, later: LinearPlan) -> LinearPlan:
        """This plan with what a later pass decided put in its place."""
        parts = {f.name: getattr(later, f.name) for f in fields(self)}
        return LinearPlan(**{k: getattr(self, k) if part is None else part for k, part in parts.items()})


@dataclass(frozen=True)
class Plan:
    """What a pass chose for a whole block: transforms to fold, and one LinearPlan per linear name.

    notes: by linear name, what the report says of the choice.
    """

    transforms: tuple[Transform, ...] = ()
    linears: Mapping[str, LinearPlan] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
