"""HQQ: no data, each group's zero point moved until its errors are sparse (Badri & Shaji 2023, `hqq` optimize.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.grid import unsigned
from qlab.methods import register_method
from qlab.methods.rtn import group_steps
from qlab.plan import LinearPlan
from qlab.qtensor import QTensor, by_group, dense, encode
from qlab.ranges import Params, minmax, round_to_nearest, stored
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Step, Steps


@register_method("hqq")
@dataclass(frozen=True)
class HQQ:
    """Half-quadratic minimisation of Σ|w − w_hat|^p over the zero point, the scale staying as min-max sets it.

    HQQ's zero is a real number: the rule `offset` stores it, as offset = −scale·zero. Under `asym` and `awq` it is
    rounded to an integer at the end: that keeps the levels at multiples of scale, where RTN has them, so nothing is
    gained. beta, raised by kappa at each of the `iters` iterations, is in units of the weights, as published: errors
    below beta^(−1/(2−p)), 0.17 at first, are no outliers, so that the zero of a language model's weights moves by the
    mean error. Unlike the published code each group stops on its own when its error no longer falls, and keeps its
    best zero, the first of which is RTN's.
    """

    p: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01
    iters: int = 20
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        sane = all(isinstance(x, int | float) for x in (self.p, self.beta, self.kappa)) and isinstance(self.iters, int)
        if not (sane and 0 < self.p <= 1 and self.beta > 0 and self.kappa >= 1 and self.iters >= 1):
            raise QlabError(f"hqq needs 0 < p ≤ 1, beta > 0, kappa ≥ 1 and iters ≥ 1: got {self}")

    def steps(
        self,
        W: Tensor,
        spec: QuantSpec,
        stats: Stats | None = None,
        plan: LinearPlan | None = None,
        grain: str = "layer",
    ) -> Steps[QTensor]:
        """One Step per iteration ("iteration", error Σ|w − w_hat|^p of the best zeros so far), then the Steps of RTN.

        Its data are per group, [lines, groups]: `error` of this iteration and the best `offset` so far.
        """
        if spec.symmetric:
            remedy = QuantSpec(unsigned(spec.bits), spec.group_size, "offset", spec.blocking)
            raise QlabError(f"hqq moves the zero point, and {spec} has none: use {remedy}, or -asym")
        plan = plan or LinearPlan()
        clipped = plan.clipped(W)
        start = stored(minmax(clipped, spec), spec)
        offset = yield from self.search(clipped, spec, start)
        Q = round_to_nearest(clipped, spec, self._settled(clipped, spec, start, offset), plan.rounding)
        yield from group_steps(W, Q, grain)
        return Q

    def search(self, W: Tensor, spec: QuantSpec, start: Params) -> Steps[Tensor]:
        """The best real offset −scale·zero of each group, [lines, groups], from `start`, in the precision of `W`."""
        scale = cast(Tensor, dense(start.scale, W.dtype))
        offset = -scale * start.zero if start.zero is not None else cast(Tensor, dense(start.offset, W.dtype))
        kept, best, beta = offset, torch.full_like(offset, torch.inf), self.beta
        for i in range(self.iters):
            E = _residual(W, spec, scale, offset)
            error = self._error(E, spec)
            better = error < best
            best, kept = torch.where(better, error, best), torch.where(better, offset, kept)
            yield Step("iteration", i, self.iters, float(best.sum()), data={"error": error, "offset": kept})
            if not better.any():
                break
            # zero ← mean(q − (W − W_e)/scale), which is offset ← offset + mean(E − W_e)     (sub-problem 2)
            shift = by_group(lambda e: e.mean(-1), E - _shrink(E, beta, self.p), spec)
            offset = torch.where(better, offset + shift, offset)  # a group that came to rest stays there
            beta *= self.kappa
        return kept

    def _settled(self, W: Tensor, spec: QuantSpec, start: Params, offset: Tensor) -> Params:
        """The moved zeros as the spec stores them, except where `start` has the smaller error once both are stored.

        Minima on a grid of their own depend on their neighbours: there it is all or none.
        """
        moved = stored(_with_offset(start, offset, spec), spec)
        before, after = (
            self._error((W - round_to_nearest(W, spec, params).dequantize(W.dtype)).reshape(spec.lines(W.shape)), spec)
            for params in (start, moved)
        )
        if spec.offset:
            return moved if after.sum() < before.sum() else start
        worse = after >= before
        return Params(start.scale, _pick(worse, start.zero, moved.zero), _pick(worse, start.offset, moved.offset))

    def _error(self, E: Tensor, spec: QuantSpec) -> Tensor:
        """Σ|e|^p of each group, [lines, groups], of E [lines, length]."""
        return by_group(lambda e: e.abs().pow(self.p).sum(-1), E, spec)


def _residual(W: Tensor, spec: QuantSpec, scale: Tensor, offset: Tensor) -> Tensor:
    """W − w_hat [lines, length] with real scales and offsets, [lines, groups], whatever the spec stores."""
    real = replace(spec, rule="offset", scale=None, offset=None)
    W_hat = QTensor(encode(W, real, scale, None, offset), scale, real, None, offset).dequantize(W.dtype)
    return (W - W_hat).reshape(spec.lines(W.shape))


def _shrink(E: Tensor, beta: float, p: float) -> Tensor:
    """The part of each error that counts as an outlier's: nothing of a small one, nearly all of a large one."""
    # W_e ← sign(e) · relu(|e| − |e|^(p−1) / beta)     (sub-problem 1)
    return E.sign() * (E.abs() - E.abs().pow(p - 1) / beta).relu()


def _pick(where: Tensor, a: Tensor | QTensor | None, b: Tensor | QTensor | None) -> Tensor | None:
    """`a` where it says so, else `b`: for a part that both hold as a plain tensor, or both lack."""
    return torch.where(where, a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else None


def _with_offset(start: Params, offset: Tensor, spec: QuantSpec) -> Params:
    """`start` with a real offset, as a minimum or rounded to the zero point −offset/scale that the codes allow."""
    if start.zero is None:
        return replace(start, offset=offset)
    scale = cast(Tensor, dense(start.scale, offset.dtype))
    zero = torch.round(-offset / torch.where(scale == 0, 1, scale))
    return replace(start, zero=zero.clamp(0, len(spec.grid.levels) - 1))
