"""AWQ: scale up the input channels that carry large activations, so that their weights round finely (2306.00978)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.families import Fold
from qlab.passes import Block, register_pass
from qlab.plan import Plan, Transform
from qlab.qtensor import by_group
from qlab.ranges import extremes, round_to_nearest
from qlab.spec import QuantSpec
from qlab.step import Step, Steps

RULES = {
    "paper": "s = x^α, x the mean |activation| of a channel (arXiv 2306.00978, eq. 5)",
    "autoawq": "s = x^α / (w^(1−α) + 1e-4), w the mean of |weight| over its group's largest (AutoAWQ's duo scaling)",
}
GRIDS = {"closed": "α = 0, 1/n, … 1", "reference": "α = 0, 1/n, … 1 − 1/n: AWQ's own code never tries 1"}


@register_pass("awq")
@dataclass(frozen=True)
class AWQ:
    """For each fold the α whose scales leave the smallest error in the block's output, once everything is rounded.

    rule: see RULES. grid and points: the α tried, see GRIDS. tokens: how many calibration tokens the search runs on.
    No scaling at all is always a candidate, so that the loss never exceeds that of plain rounding.
    """

    rule: str = "paper"
    grid: str = "closed"
    points: int = 20
    tokens: int = 2048
    needs = frozenset({"abs"})

    def __post_init__(self) -> None:
        for value, known, what in ((self.rule, RULES, "rule"), (self.grid, GRIDS, "grid")):
            if value not in known:
                raise QlabError(f"awq: unknown {what} {value!r}: choose one of {', '.join(known)}")
        if self.points < 1 or self.tokens < 1:
            raise QlabError(f"awq needs points ≥ 1 and tokens ≥ 1: got {self}")

    @property
    def alphas(self) -> list[float]:
        """The exponents tried."""
        return [k / self.points for k in range(self.points + (self.grid == "closed"))]

    @torch.no_grad()
    def steps(self, block: Block) -> Steps[Plan]:
        """A Step "alpha" per candidate: its loss, and data alpha and scale [in]. Each fold is searched on its own."""
        sample = _sample(block, self.tokens)
        chosen, notes = [], dict[str, str]()
        folds = [fold for fold in block.folds if any(name in block.linears for name in fold.linears)]
        for fold in folds:
            alpha, scale = yield from self._search(block, fold, sample)
            if scale is not None:
                chosen.append(Transform(fold.linears, "in", scale, (str(fold.into),)))
            notes |= dict.fromkeys(fold.linears, "unscaled" if alpha is None else f"α {alpha:g}")
        return Plan(tuple(chosen), notes={name: notes.get(name, "nothing takes its scale") for name in block.linears})

    def _search(
        self, block: Block, fold: Fold, sample: Sequence[tuple[Tensor, Tensor]]
    ) -> Steps[tuple[float | None, Tensor | None]]:
        names = [name for name in fold.linears if name in block.linears]
        x = block.stats[names[0]].mean_abs.float()
        w = (
            None
            if self.rule == "paper"
            else relative_weight((block.linears[n].weight.float(), block.specs[n]) for n in names)
        )
        best: tuple[float | None, Tensor | None] = None, None
        least = self._loss(block, names, None, sample)
        yield Step("alpha", 0, len(self.alphas) + 1, least, data={"alpha": torch.tensor(torch.nan)})
        for i, alpha in enumerate(self.alphas):
            scale = scale_of(x, alpha, w)
            loss = self._loss(block, names, scale, sample)
            if loss < least:
                least, best = loss, (alpha, scale)
            yield Step("alpha", i + 1, len(self.alphas) + 1, loss, data={"alpha": torch.tensor(alpha), "scale": scale})
        return best

    @staticmethod
    def _loss(block: Block, names: list[str], scale: Tensor | None, sample: Sequence[tuple[Tensor, Tensor]]) -> float:
        """Mean squared error of the block's output with these linears rounded after scaling, eq. 4."""
        weights = {}
        for name in names:
            W = block.plans[name].clipped(block.linears[name].weight.float())
            weights[name] = rounded(W, block.specs[name], scale).to(block.linears[name].weight.dtype)
        squared = sum(float((block.forward(X, weights) - Y).square().sum(dtype=torch.float64)) for X, Y in sample)
        return squared / sum(Y.numel() for _, Y in sample)


def scale_of(x: Tensor, alpha: float, w: Tensor | None = None) -> Tensor:
    """Scales [in] from the mean |activation| x [in] (and, by AutoAWQ's rule, the mean relative |weight| w [in]).

    Divided by √(max·min), which changes no code but keeps numbers near 1.
    """
    s = x.pow(alpha) if w is None else x.pow(alpha) / (w.pow(1 - alpha) + 1e-4)
    s = s.clamp(min=1e-4)
    return s / (s.max() * s.min()).sqrt()


def rounded(W: Tensor, spec: QuantSpec, scale: Tensor | None = None) -> Tensor:
    """W [out, in] after rounding to nearest with its input channels multiplied by `scale`, and divided again."""
    if scale is None:
        return round_to_nearest(W, spec).dequantize()
    return round_to_nearest(W * scale, spec).dequantize() / scale


def relative_weight(linears: Iterable[tuple[Tensor, QuantSpec]]) -> Tensor:
    """Mean over all rows of |w| as a fraction of its group's largest, [in]; W [out, in] of linears with one input."""
    rows = []
    for W, spec in linears:
        _, top = extremes(W.abs(), spec)
        lines = W.abs().reshape(spec.lines(W.shape))
        rows.append(by_group(lambda w, t: w / (t + 1e-6), lines, spec, top).reshape(W.shape))
    return torch.cat(rows).mean(0)


def _sample(block: Block, tokens: int) -> list[tuple[Tensor, Tensor]]:
    """The first samples of the first batches, about `tokens` tokens, with what the block should answer to them."""
    sample: list[tuple[Tensor, Tensor]] = []
    for i, X in enumerate(block.inputs):
        missing = tokens - sum(x.shape[0] * x.shape[1] for x, _ in sample)
        if missing < X.shape[1] and sample:
            break
        take = max(1, missing // X.shape[1])
        sample.append((X[:take], block.target(i)[:take]))
    return sample
