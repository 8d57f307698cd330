"""GPTQ: quantize column by column, and let the columns still to come make up for each error (arXiv 2210.17323)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.methods import register_method
from qlab.methods.mse import MSE
from qlab.plan import LinearPlan
from qlab.qtensor import QTensor, affine, dense
from qlab.ranges import Params, extremes, fit, minmax, stored
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Step, Steps, drain

ACT_ORDERS = {
    "static": "columns by falling diag(H), groups contiguous and fitted first: no cost at run time",
    "desc": "columns by falling diag(H), groups made of neighbours in that order: needs a group index",
    "none": "columns from left to right, each group fitted when it is reached",
}
MAX_DAMP = 1.0


@register_method("gptq")
@dataclass(frozen=True)
class GPTQ:
    """Second-order rounding: column j's error, divided by U_jj, is moved to later columns along row j of U, H⁻¹ = UᵀU.

    damp: added to diag(H), as a fraction of its mean; raised tenfold while H is not positive definite. act_order: see
    ACT_ORDERS. block: columns between two updates of all the rest; it never changes the codes, since blocks end where
    a group is fitted. mse: search each group's range as the method `mse` does. alpha: GPTAQ's asymmetric calibration
    (arXiv 2504.02692, 0.25 there): aims at the float model's output; needs the statistic `cross`.
    """

    damp: float = 0.01
    act_order: str = "static"
    block: int = 128
    mse: bool = False
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.act_order not in ACT_ORDERS:
            raise QlabError(f"gptq: unknown act_order {self.act_order!r}: choose one of {', '.join(ACT_ORDERS)}")
        if not (0 <= self.damp <= MAX_DAMP and self.block >= 1 and self.alpha >= 0):
            raise QlabError(f"gptq needs 0 ≤ damp ≤ {MAX_DAMP:g}, block ≥ 1 and alpha ≥ 0: got {self}")

    @property
    def needs(self) -> frozenset[str]:
        """The Gram matrix; with GPTAQ also the cross moment of what the float model would have sent."""
        return frozenset({"gram", "cross"} if self.alpha else {"gram"})

    def steps(
        self,
        W: Tensor,
        spec: QuantSpec,
        stats: Stats | None = None,
        plan: LinearPlan | None = None,
        grain: str = "layer",
    ) -> Steps[QTensor]:
        """A Step "damping" for each raise of it, then one per block, or per column (with the weights so far).

        error is Σ((w − w_hat)/U_jj)² of the columns so far: at the end exactly tr(E·H·Eᵀ) of the damped H.
        """
        plan = plan or LinearPlan()
        self._check(spec, stats, plan)
        assert stats is not None and stats.gram is not None
        H, W = _living(stats.gram, W)
        order = H.diag().argsort(descending=True, stable=True) if self.act_order != "none" else torch.arange(len(H))
        U = yield from _factor(H[order][:, order], self.damp, stats.tokens)
        P = None if not self.alpha else _asymmetry(stats, order, U, self.alpha).to(W.dtype)
        groups = _Groups(self, plan.clipped(W), spec, order)
        codes = yield from self._columns(W, U.to(W.dtype), P, groups, order, grain)
        params = groups.params()
        return QTensor(codes, params.scale, spec, params.zero, params.offset, groups.index())

    def _check(self, spec: QuantSpec, stats: Stats | None, plan: LinearPlan) -> None:
        if stats is None or stats.gram is None or not stats.tokens:
            raise QlabError(
                "gptq needs XᵀX of the layer's inputs: calibrate first, or use a data-free method (rtn, mse)"
            )
        if self.alpha and stats.cross is None:
            raise QlabError("gptq with alpha > 0 (GPTAQ) needs the statistic `cross`: calibrate with Stats(cross=True)")
        if spec.blocking != "row" or spec.rule == "centered":
            raise QlabError(
                f"gptq works along rows: {spec} has other groups; use {spec.grid.name}-g64-rows-… or method rtn"
            )
        if self.act_order != "static" and (spec.scale or spec.offset):
            raise QlabError(
                f"gptq: the scales of {spec} have a grid of their own and are fitted first: act_order=static"
            )
        if plan.rounding is not None:
            raise QlabError("gptq chooses its own rounding: learned rounding offsets go with the method rtn")

    def _columns(
        self, W: Tensor, U: Tensor, P: Tensor | None, groups: _Groups, order: Tensor, grain: str
    ) -> Steps[Tensor]:
        """The loop of the paper's algorithm 1; everything is transposed, so that a column lies in one piece."""
        out, n = W.shape
        T = W.T[order].contiguous()  # [in, out], rows in the order they are quantized
        codes = torch.empty(n, out, dtype=torch.uint8)
        error, pivots = 0.0, U.diag().tolist()
        for number, (start, stop) in enumerate(blocks := list(groups.blocks(self.block))):
            B, E = T[start:stop], torch.zeros(stop - start, out, dtype=T.dtype)
            for j in range(start, stop):
                k = j - start
                groups.reach(j, T)
                codes[j], w_hat = groups.quantize(j, B[k])
                # e = (w_j − q_j) / U_jj, then w_: ← w_: − e · U_j,:     (eq. 2–3 with U for H⁻¹)
                torch.sub(B[k], w_hat, out=E[k]).div_(pivots[j])
                later = B[k + 1 :]
                if P is not None:  # GPTAQ, eq. 15: the float model would have sent more: + w_j · P_j,:
                    later.addr_(P[j, j + 1 : stop], B[k])
                later.addr_(U[j, j + 1 : stop], E[k], alpha=-1)
                if grain == "column":
                    error += float(E[k].square().sum())
                    yield self._column_step(j, n, error, order, codes[j], w_hat, E[k], T)
            T[stop:].addmm_(U[start:stop, stop:].T, E, alpha=-1)
            if P is not None:
                T[stop:].addmm_(P[start:stop, stop:].T, B)
            if grain != "column":
                error += float(E.square().sum())
                yield Step("block", number, len(blocks), error, slice(start, stop), {"columns": order[start:stop]})
        result = torch.empty_like(codes)
        result[order] = codes
        return result.T.contiguous()

    @staticmethod
    def _column_step(
        j: int, n: int, error: float, order: Tensor, codes: Tensor, w_hat: Tensor, e: Tensor, T: Tensor
    ) -> Step:
        column = int(order[j])
        W = torch.empty_like(T)
        W[order] = T
        data = {"codes": codes.clone(), "W_hat": w_hat.clone(), "e": e.clone(), "W": W.T.contiguous()}
        return Step("column", j, n, error, slice(column, column + 1), data)


def hessian_factor(H: Tensor, damp: float = 0.01) -> Tensor:
    """U, upper triangular in float64, with (H + damp·mean(diag H)·I)⁻¹ = UᵀU; QlabError where that is not possible."""
    H = H.double()
    damped = H + damp * H.diag().mean() * torch.eye(len(H), dtype=H.dtype)
    # Turned end for end, H = R·Rᵀ with R upper: U = R⁻¹ costs one factorization where inv and chol would cost two.
    L, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if info or not L.isfinite().all():
        raise QlabError(
            f"the Hessian is not positive definite with damping {damp:g}: raise it or calibrate on more text"
        )
    eye = torch.eye(len(H), dtype=H.dtype)
    return torch.linalg.solve_triangular(L, eye, upper=False).flip(0, 1)


def _factor(H: Tensor, damp: float, tokens: int) -> Steps[Tensor]:
    """`hessian_factor`, with the damping raised tenfold as long as it fails; each raise is a Step."""
    for attempt in range(10):
        try:
            return hessian_factor(H, damp)
        except QlabError:
            if damp >= MAX_DAMP:
                break
            damp = min(max(10 * damp, 1e-4), MAX_DAMP)
            yield Step("damping", attempt, 10, damp)
    raise QlabError(
        f"gptq: XᵀX stays indefinite with damping up to {MAX_DAMP:g}: {tokens} calibration tokens for {len(H)} "
        "channels; calibrate on more text"
    )


def _living(gram: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """H and W with dead channels (no input ever) disarmed: H_jj = 1 and w_j = 0, as GPTQ's `gptq.py` does."""
    if not gram.isfinite().all():
        raise QlabError("gptq: XᵀX holds NaN or infinity: the calibration activations overflowed")
    dead = gram.diag() == 0
    if dead.all():
        raise QlabError("gptq: every input of the layer was zero during calibration: nothing to weigh errors with")
    H, W = gram.double().clone(), W.clone()
    H[dead, dead] = 1.0
    W[:, dead] = 0.0
    return H, W


def _asymmetry(stats: Stats, order: Tensor, U: Tensor, alpha: float) -> Tensor:
    """GPTAQ's P = α · triu(D·Uᵀ, 1) · U with D = Σ (x_float − x)·xᵀ (arXiv 2504.02692, eq. 14–16)."""
    assert stats.cross is not None
    D = stats.cross[order][:, order].double()
    return alpha * (D @ U.T).triu(1) @ U


class _Groups:
    """Scales of the groups as the columns reach them: all fitted first (static), or one by one from current weights."""

    def __init__(self, method: GPTQ, W: Tensor, spec: QuantSpec, order: Tensor):
        self.method, self.spec, self.order = method, spec, order
        self.length = W.shape[1]
        self.column_of = order.tolist()
        self.size = spec.group_in(self.length)
        self.static = method.act_order == "static"
        self.fitted: list[Params] = []
        self.whole = _fitted(W, spec, method.mse) if self.static else None
        if self.whole:
            self._use(self.whole, W.dtype)

    def _use(self, params: Params, dtype: torch.dtype) -> None:
        """Keep parameters [out, groups] as [groups, out], so that one group's lie in one piece."""
        parts = (params.scale, params.zero, params.offset)
        self.parts = tuple(None if p is None else cast(Tensor, dense(p, dtype)).T.contiguous() for p in parts)
        scale = self.parts[0]
        self.divisor = None if scale is None else torch.where(scale == 0, 1, scale)

    def blocks(self, block: int) -> Iterator[tuple[int, int]]:
        """Runs of at most `block` columns; where groups are fitted on the way, each begins in an up-to-date block."""
        step = block if self.static else max(self.size, block // self.size * self.size)
        starts = {i + k for i in range(0, self.length, step) for k in range(0, step, block) if i + k < self.length}
        bounds = [*sorted(starts), self.length]
        yield from pairwise(bounds)

    def reach(self, j: int, T: Tensor) -> None:
        """Fit the group that begins at position j from the weights as they are now (T [in, out])."""
        if self.static or j % self.size:
            return
        W = T[j : j + self.size].T
        params = _fitted(W, replace(self.spec, group_size=None), self.method.mse)
        self.fitted.append(params)
        self._use(params, T.dtype)

    def quantize(self, j: int, w: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and W_hat of the column at position j, w [out], exactly as `encode` and `dequantize` compute them."""
        group = self.column_of[j] // self.size if self.static else 0
        scale, zero, offset = (None if part is None else part[group] for part in self.parts)
        x = w if offset is None else w - offset
        x = x if self.divisor is None else x / self.divisor[group]
        codes = self.spec.grid.encode(x, zero)
        return codes, affine(self.spec.grid.decode(codes, w.dtype), scale, zero, offset)

    def params(self) -> Params:
        """The parameters of all groups, [out, groups], as they are stored."""
        if self.whole:
            return self.whole
        return Params(*(_joined([getattr(p, part) for p in self.fitted]) for part in ("scale", "zero", "offset")))

    def index(self) -> Tensor | None:
        """The group of each original column, where neighbours may be in different ones."""
        if self.method.act_order != "desc" or self.spec.group_size is None:
            return None
        index = torch.empty(self.length, dtype=torch.int32)
        index[self.order] = torch.arange(self.length, dtype=torch.int32) // self.size
        return index


def _fitted(W: Tensor, spec: QuantSpec, mse: bool) -> Params:
    """Each group's range, searched or not, as it will be stored."""
    if not mse:
        return stored(minmax(W, spec), spec)
    lo, hi = extremes(W, spec)
    shrink = drain(MSE().search(W, spec))
    return stored(fit(lo * shrink, hi * shrink, spec), spec)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    return None if parts[0] is None else torch.cat([p for p in parts if p is not None], dim=1)
