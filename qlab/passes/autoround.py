"""AutoRound: learn by signed gradients which way weights round and how far ranges shrink (arXiv 2309.05516)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.passes import Block, register_pass
from qlab.plan import LinearPlan, Plan
from qlab.qtensor import by_group
from qlab.ranges import extremes, fit, round_to_nearest
from qlab.step import Step, Steps

LEAST_SHRINK = 0.1
"""A range keeps at least this part of its extent: none at all would have no scale."""


@register_pass("autoround")
@dataclass(frozen=True)
class AutoRound:
    """Rounding offsets V in [−½, ½] and range shrinks α, β in (0, 1] with the smallest error of the block's output.

    iters: steps of signed gradient descent. batch: samples a step, drawn by `seed`. lr: the first step's size in grid
    units, 1/iters by default; it falls to 0 linearly. Plain rounding is always a candidate, so that the loss never
    exceeds its own. The offsets are for the method rtn, which rounds exactly as here.
    """

    iters: int = 20
    batch: int = 8
    lr: float | None = None
    seed: int = 0
    needs = frozenset({"float_inputs"})

    def __post_init__(self) -> None:
        if self.iters < 1 or self.batch < 1 or (self.lr is not None and not self.lr > 0):
            raise QlabError(f"autoround needs iters ≥ 1, batch ≥ 1 and lr > 0: got {self}")

    @torch.no_grad()
    def steps(self, block: Block) -> Steps[Plan]:
        """A Step "iterate" each: its batch's loss, and data relative: the same as a fraction of plain rounding's.

        The last Step, "kept", has the loss over all samples of what is returned.
        """
        learned = {name: _Learned(block, name) for name in block.linears}
        samples = _Samples(block)
        plain = samples.losses({name: one.rounded(one.plan()) for name, one in learned.items()})
        generator = torch.Generator().manual_seed(self.seed)
        least, best = 1.0, dict[str, LinearPlan]()
        for i in range(self.iters):
            plans = {name: one.plan() for name, one in learned.items()}
            picks = torch.randperm(len(plain), generator=generator)[: self.batch].tolist()
            weights = {name: one.rounded(plans[name]) for name, one in learned.items()}
            loss, gradients = samples.gradients(picks, weights)
            # batches differ far more than iterates do: each is measured against plain rounding on the same samples
            relative = loss / float(plain[picks].mean())
            if relative < least:
                least, best = relative, plans
            yield Step("iterate", i, self.iters + 1, loss, data={"relative": torch.tensor(relative)})
            for name, one in learned.items():
                one.learn(
                    gradients[name], weights[name], plans[name], (self.lr or 1 / self.iters) * (1 - i / self.iters)
                )
        total, kept = float(plain.mean()), dict[str, LinearPlan]()
        for plans in (best, {name: one.plan() for name, one in learned.items()}):
            loss = float(samples.losses({name: learned[name].rounded(plan) for name, plan in plans.items()}).mean())
            if loss < total:
                total, kept = loss, plans
        yield Step("kept", self.iters, self.iters + 1, total)
        note = f"{total / float(plain.mean()):.0%} of plain rounding's loss" if kept else "plain rounding"
        return Plan(linears=kept, notes=dict.fromkeys(block.linears, note))


class _Samples:
    """The calibration samples of a block one by one: inputs, and what the block should answer."""

    def __init__(self, block: Block):
        self.block = block
        self.targets = [block.target(i) for i in range(len(block.inputs))]
        self.places = [(i, j) for i, X in enumerate(block.inputs) for j in range(len(X))]

    def losses(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error of the block's output for each sample, [samples]."""
        pairs = zip(self.block.inputs, self.targets, strict=True)
        return torch.cat([(self.block.forward(X, weights) - Y).square().mean((1, 2)) for X, Y in pairs])

    def gradients(self, picks: list[int], weights: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        """The mean squared error over some samples, and its gradient in each weight."""
        places = [self.places[k] for k in picks]
        X = torch.stack([self.block.inputs[i][j] for i, j in places])
        Y = torch.stack([self.targets[i][j] for i, j in places])
        with torch.enable_grad():
            leaves = {name: W.detach().requires_grad_() for name, W in weights.items()}
            loss = (self.block.forward(X, leaves) - Y).square().mean()
            gradients = torch.autograd.grad(loss, list(leaves.values()))
        return float(loss), dict(zip(leaves, gradients, strict=True))


class _Learned:
    """One linear while it learns: V [out, in], and what is left of its groups' two ends, [2, lines, groups].

    Symmetric ranges have one shrink for both ends, [1, lines, groups].
    """

    def __init__(self, block: Block, name: str):
        linear, self.spec = block.linears[name], block.specs[name]
        if not self.spec.grid.is_integer or self.spec.rule in ("mx", "centered", "none"):
            raise QlabError(f"autoround learns integer grids with scales: {block.name}.{name} has {self.spec}")
        self.W, self.dtype = linear.weight.detach().float(), linear.weight.dtype
        self.lo, self.hi = extremes(block.plans[name].clipped(self.W), self.spec)
        if self.spec.symmetric:
            self.hi = torch.maximum(self.lo.abs(), self.hi.abs())
            self.lo = -self.hi
        self.shrink = torch.ones(1 if self.spec.symmetric else 2, *self.lo.shape)
        self.V = torch.zeros_like(self.W)

    def plan(self) -> LinearPlan:
        """What has been learned so far, as the method rtn takes it."""
        lo, hi = self._ends(self.shrink)
        return LinearPlan(clip=(self._spread(lo), self._spread(hi)), rounding=self.V.clone())

    def rounded(self, plan: LinearPlan) -> Tensor:
        """W_hat [out, in] as the method rtn will make it of a plan."""
        Q = round_to_nearest(plan.clipped(self.W), self.spec, rounding=plan.rounding)
        return Q.dequantize().to(self.dtype)

    def learn(self, G: Tensor, W_hat: Tensor, plan: LinearPlan, lr: float) -> None:
        """One step against the signs of the gradients (eq. 5), given that in W_hat = rounded(plan), G [out, in].

        Straight through the quantizer, ŵ = s·level(c/s + v) with c the clipped weight has ∂ŵ/∂v = s, ∂ŵ/∂c = 1 and
        ∂ŵ/∂s = (ŵ − c)/s; c moves with an end of its group where the weight lies at it or beyond.
        """
        assert plan.clip is not None
        G, (lo, hi) = G.float(), plan.clip
        self._learn_shrink(G, W_hat.float() - self.W.clamp(lo, hi), lo >= self.W, hi <= self.W, lr)
        self.V.sub_(G.sign(), alpha=lr).clamp_(-0.5, 0.5)

    def _learn_shrink(self, G: Tensor, E: Tensor, at_lo: Tensor, at_hi: Tensor, lr: float) -> None:
        with torch.enable_grad():
            shrink = self.shrink.clone().requires_grad_()
            lo, hi = self._ends(shrink)
            scale = cast(Tensor, fit(lo, hi, self.spec).scale)
            ds = self._sums(G * E) / torch.where(scale == 0, 1.0, scale).detach()
            ends = (scale * ds + lo * self._sums(G * at_lo) + hi * self._sums(G * at_hi)).sum()
            (gradient,) = torch.autograd.grad(ends, shrink)
        self.shrink.sub_(gradient.sign(), alpha=lr).clamp_(LEAST_SHRINK, 1.0)

    def _ends(self, shrink: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of each group's range, [lines, groups]."""
        return shrink[0] * self.lo, shrink[-1] * self.hi

    def _spread(self, values: Tensor) -> Tensor:
        """Each group's value [lines, groups] at all of its weights, [out, in]."""
        lines = self.W.reshape(self.spec.lines(self.W.shape))
        return by_group(lambda w, v: v.expand_as(w), lines, self.spec, values).reshape(self.W.shape)

    def _sums(self, values: Tensor) -> Tensor:
        """The sum over each group, [lines, groups], of values at the weights [out, in]."""
        return by_group(lambda x: x.sum(-1), values.reshape(self.spec.lines(values.shape)), self.spec)
