"""MSE-clipped round to nearest: shrink each group's range as long as its error falls (GPTQ `quant.py`, `mse=True`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.methods import register_method
from qlab.methods.rtn import group_steps
from qlab.plan import LinearPlan
from qlab.qtensor import QTensor, by_group
from qlab.ranges import Params, extremes, fit, round_to_nearest
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Step, Steps


@register_method("mse")
@dataclass(frozen=True)
class MSE:
    """Search the range of each group: both ends times 1, .99, … 1 − maxshrink, smallest Σ|w − w_hat|^norm wins."""

    norm: float = 2.4
    grid: int = 100
    maxshrink: float = 0.8
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        sane = all(isinstance(x, int | float) for x in (self.norm, self.grid, self.maxshrink))
        if not (sane and self.norm > 0 and self.grid >= 1 and 0 < self.maxshrink <= 1):
            raise QlabError(f"mse needs norm > 0, grid ≥ 1 and 0 < maxshrink ≤ 1: got {self}")

    def steps(
        self,
        W: Tensor,
        spec: QuantSpec,
        stats: Stats | None = None,
        plan: LinearPlan | None = None,
        grain: str = "layer",
    ) -> Steps[QTensor]:
        """One Step per candidate range ("candidate", with the shrink each group holds), then the Steps of RTN."""
        if spec.rule == "centered":
            raise QlabError(f"mse cannot search {spec}: the rule `centered` is for scales; use rtn")
        plan = plan or LinearPlan()
        shrink = yield from self.search(plan.clipped(W), spec)
        lo, hi = extremes(plan.clipped(W), spec)
        Q = round_to_nearest(plan.clipped(W), spec, fit(lo * shrink, hi * shrink, spec), plan.rounding)
        yield from group_steps(W, Q, grain)
        return Q

    def search(self, W: Tensor, spec: QuantSpec) -> Steps[Tensor]:
        """The best shrink of each group, [lines, groups]."""
        lo, hi = extremes(W, spec)
        best = torch.full_like(lo, torch.inf)
        shrink = torch.ones_like(lo)
        plain = replace(
            spec, scale=None, offset=None
        )  # candidates keep real scales: their own grid is fitted at the end
        candidates = int(self.maxshrink * self.grid)
        for i in range(candidates):
            p = 1 - i / self.grid
            error = self._error(W, plain, fit(lo * p, hi * p, plain))
            better = error < best
            best, shrink = torch.where(better, error, best), torch.where(better, p, shrink)
            yield Step("candidate", i, candidates, float(best.sum()), data={"error": error, "shrink": shrink})
        return shrink

    def _error(self, W: Tensor, spec: QuantSpec, params: Params) -> Tensor:
        """Σ|w − w_hat|^norm of each group, [lines, groups]."""
        E = (W - round_to_nearest(W, spec, params).dequantize(W.dtype)).reshape(spec.lines(W.shape))
        return by_group(lambda e: e.abs().pow(self.norm).sum(-1), E, spec)
