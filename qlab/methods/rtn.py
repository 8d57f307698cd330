"""Round to nearest: each group's smallest and largest weight set its grid, every weight takes the nearest level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qlab.methods import register_method
from qlab.plan import LinearPlan
from qlab.qtensor import QTensor
from qlab.ranges import round_to_nearest
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Step, Steps


@register_method("rtn")
@dataclass(frozen=True)
class RTN:
    """The baseline of every table: no data, no search, milliseconds a layer."""

    needs = frozenset[str]()

    def steps(
        self,
        W: Tensor,
        spec: QuantSpec,
        stats: Stats | None = None,
        plan: LinearPlan | None = None,
        grain: str = "layer",
    ) -> Steps[QTensor]:
        """One Step for the layer, or one per group of columns; error is the squared error of the columns so far."""
        plan = plan or LinearPlan()
        Q = round_to_nearest(plan.clipped(W), spec, rounding=plan.rounding)
        yield from group_steps(W, Q, grain)
        return Q


def group_steps(W: Tensor, Q: QTensor, grain: str) -> Steps[None]:
    """The Steps of a method that settles all groups at once: the whole layer, or group by group from the left."""
    width = W.shape[1] if grain == "layer" or Q.spec.blocking != "row" else Q.spec.group_in(W.shape[1])
    W_hat = Q.dequantize(W.dtype)
    squared = (W - W_hat).square().sum(0).cumsum(0)  # [in], error of the columns up to each
    starts = range(0, W.shape[1], width)
    for i, start in enumerate(starts):
        columns = slice(start, min(start + width, W.shape[1]))
        error = float(squared[columns.stop - 1])
        yield Step("group", i, len(starts), error, columns, {"W_hat": W_hat[:, columns], "codes": Q.codes[:, columns]})
