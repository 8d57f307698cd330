"""Clipping: cut off the largest weights of a group where the finer steps of the rest gain more (AWQ's `auto_clip`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.passes import Block, register_pass
from qlab.plan import LinearPlan, Plan
from qlab.qtensor import by_group
from qlab.ranges import extremes, round_to_nearest
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Step, Steps


@register_pass("clip")
@dataclass(frozen=True)
class Clip:
    """Per row and group the limit ±max|w|·(1 − i/grid), i < shrinks, with the smallest error of the group's output.

    A group's share of the output error is eᵀ·H_g·e with its own block of H = XᵀX, so all calibration tokens count.
    skip: parts of names that stay as they are, as in AWQ: rotary attention scores forgive clipped queries badly.
    """

    grid: int = 20
    shrinks: int = 10
    skip: tuple[str, ...] = ("q_proj", "k_proj", "qkv_proj", "query", "key")
    needs = frozenset({"gram"})

    def __post_init__(self) -> None:
        if not 1 <= self.shrinks <= self.grid:
            raise QlabError(f"clip needs 1 ≤ shrinks ≤ grid: got {self}")

    @torch.no_grad()
    def steps(self, block: Block) -> Steps[Plan]:
        """A Step "shrink" per linear and candidate: the error so far, and the shrink of each group [out, groups]."""
        plans, notes = {}, {}
        for name, linear in block.linears.items():
            if any(part in name for part in self.skip) or block.specs[name].blocking != "row":
                continue
            W, spec = block.plans[name].clipped(linear.weight.float()), block.specs[name]
            shrink = yield from self._search(W, spec, block.stats[name])
            limit = by_group(lambda w, s: s.expand_as(w), W, spec, shrink * _largest(W, spec))
            plans[name] = LinearPlan(clip=(-limit, limit))
            notes[name] = f"{float((shrink < 1).float().mean()):.0%} of groups clipped"
        return Plan(linears=plans, notes=notes)

    def _search(self, W: Tensor, spec: QuantSpec, stats: Stats) -> Steps[Tensor]:
        """The best shrink of each group, [out, groups]."""
        top = _largest(W, spec)
        shrink, least = torch.ones_like(top), torch.full_like(top, torch.inf)
        for i in range(self.shrinks):
            p = 1 - i / self.grid
            limit = by_group(lambda w, t: t.expand_as(w), W, spec, top * p)
            E = W - round_to_nearest(W.clamp(-limit, limit), spec).dequantize()
            error = group_errors(E, spec, stats)
            better = error < least
            least, shrink = torch.where(better, error, least), torch.where(better, p, shrink)
            yield Step("shrink", i, self.shrinks, float(least.sum()), data={"shrink": shrink})
        return shrink


def group_errors(E: Tensor, spec: QuantSpec, stats: Stats) -> Tensor:
    """Σ over tokens of (x_g·e_g)² for each row and group of E [out, in]: eᵀ·H_g·e, [out, groups]."""
    assert stats.gram is not None
    size, H = spec.group_in(E.shape[1]), stats.gram.to(E.dtype)
    parts = [(E[:, i : i + size], H[i : i + size, i : i + size]) for i in range(0, E.shape[1], size)]
    return torch.stack([((e @ h) * e).sum(1) for e, h in parts], dim=1)


def _largest(W: Tensor, spec: QuantSpec) -> Tensor:
    lo, hi = extremes(W, spec)
    return torch.maximum(lo.abs(), hi.abs())
