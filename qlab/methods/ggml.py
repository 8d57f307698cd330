"""llama.cpp's own quantizers: how `ggml-quants.c` chooses scales and codes for the blocks of GGUF files.

Each type puts together searches of `ggml_search`. `importance` is llama.cpp's importance matrix, the mean x² of every
input channel, and comes from `Stats`. This is what a lesson looks into; `qlab.ggml.compiled` gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.grid import ROUNDINGS, get_grid
from qlab.methods import register_method
from qlab.methods.ggml_search import (
    SMALL,
    farthest,
    fit_scales,
    nearest_level,
    over,
    refine_symmetric,
    root,
    safe,
    scales_by_max,
    search_affine,
    search_levels,
    search_symmetric,
    smallest,
    total,
)
from qlab.methods.rtn import group_steps
from qlab.plan import LinearPlan
from qlab.qtensor import QTensor, storage
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Steps

CHUNK = 1 << 19
"""Weights that are searched at once: their candidates stay in the cache."""


@dataclass(frozen=True)
class _Affine:
    """Q2_K, Q4_K, Q5_K: group, levels, sub-levels, the plain search, and how σ² counts under an importance matrix."""

    group: int
    top: int
    sub: int
    plain: tuple[float, float, int, bool]
    sigma: float


_AFFINE = {
    "q2_k": _Affine(16, 3, 15, (-0.5, 0.1, 15, True), 1.0),
    "q4_k": _Affine(32, 15, 63, (-1.0, 0.1, 20, False), 2.0),
    "q5_k": _Affine(32, 31, 63, (-0.5, 0.1, 15, False), 2.0),
}
_IMPORTANT = (-0.9, 0.05, 36, False)


def _names() -> dict[QuantSpec, str]:
    names = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "iq4_xs", "mxfp4_ggml", "nvfp4_ggml", "tq1_0", "tq2_0",
             "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")  # fmt: skip
    return {QuantSpec.parse(name): name for name in names}


@register_method("ggml")
@dataclass(frozen=True)
class GGML:
    """llama.cpp's choice for the blocks of GGUF: q4_0 … q8_0, q2_k … q6_k, iq4_nl, iq4_xs, mxfp4_ggml, tq1_0 …

    imatrix: weigh errors by the mean x² of each input channel where statistics are given (needed: none).
    """

    imatrix: bool = True
    needs = frozenset[str]()

    def steps(
        self,
        W: Tensor,
        spec: QuantSpec,
        stats: Stats | None = None,
        plan: LinearPlan | None = None,
        grain: str = "layer",
    ) -> Steps[QTensor]:
        """One Step per candidate of each search ("candidate"; error is the search's own objective), then RTN's."""
        plan = plan or LinearPlan()
        name = _names().get(spec)
        if name is None:
            raise QlabError(f"ggml does not know {spec}: its blocks are {', '.join(_names().values())}")
        if plan.rounding is not None:
            raise QlabError("ggml chooses its own rounding: learned rounding offsets go with the method rtn")
        block = 256 if name[-1] == "k" or name in ("iq4_xs", "tq1_0", "tq2_0") else 32
        if W.shape[1] % block:
            raise QlabError(f"rows of {W.shape[1]}: {name} has blocks of {block}; choose a type of smaller blocks")
        importance = None
        if self.imatrix and stats is not None and stats.tokens:
            importance = stats.mean_sq.float()
        rows = max(1, CHUNK // W.shape[1])
        parts = []
        for chunk in plan.clipped(W).float().split(rows):
            parts.append((yield from _SEARCHES.get(name, _k_affine)(chunk, spec, importance)))
        Q = _joined(parts)
        yield from group_steps(W, Q, grain)
        return Q


def _by_weight(W: Tensor, group: int) -> Tensor:
    """[out, in] → [group, groups], groups in the order of the rows."""
    return W.reshape(-1, group).T.contiguous()


def _importance(W: Tensor, importance: Tensor, group: int, around: int, factor: float) -> Tensor:
    """w = importance · √(σ² + x²) as [group, groups]; σ² = factor · mean x² of the `around` weights it is among."""
    x2 = (W * W).reshape(-1, around)
    sigma = factor * (total(x2.T.contiguous()) / around)
    w = root(sigma[:, None] + x2).reshape(W.shape) * importance
    return _by_weight(w, group)


def _rows(found: Tensor, W: Tensor) -> Tensor:
    """Codes [group, groups] → uint8 [out, in]."""
    return found.T.reshape(W.shape).to(torch.uint8)


def _half(values: Tensor, W: Tensor, spec: QuantSpec) -> Tensor:
    """Scales as float16 [out, …]."""
    return storage(values.reshape(len(W), -1), spec)


def _k_affine(W: Tensor, spec: QuantSpec, importance: Tensor | None) -> Steps[QTensor]:
    """Q2_K, Q4_K, Q5_K: search every group, put scales and minima on their grid, then round again to what is stored."""
    kind = _AFFINE[str(spec)]
    x = _by_weight(W, kind.group)
    per = 256 // kind.group
    if importance is None:
        w = x.abs() if str(spec) == "q2_k" else root(total(x * x) / kind.group) + x.abs()
        found = yield from search_affine(x, w, kind.top, *kind.plain)
    else:
        w = _importance(W, importance, kind.group, 256, kind.sigma)
        found = yield from search_affine(x, w, kind.top, *_IMPORTANT)
    scales, minima = (v.reshape(-1, per) for v in (found.scale, -cast(Tensor, found.minimum)))
    if importance is None:
        (sc, d), (m, dmin) = (scales_by_max(v, kind.sub) for v in (scales, minima))
    else:
        weight = total(w).reshape(-1, per).T.contiguous()
        a = yield from fit_scales(scales.T.contiguous(), weight, kind.sub)
        b = yield from fit_scales(minima.T.contiguous(), weight, kind.sub)
        (sc, d), (m, dmin) = (a.codes.T, a.scale), (b.codes.T, b.scale)
    d16, dmin16 = _half(d, W, spec), _half(dmin, W, spec)
    scale = (d16.float().reshape(-1, 1) * sc).flatten()
    minimum = (dmin16.float().reshape(-1, 1) * m).flatten()
    codes = torch.where(scale == 0, found.codes, torch.round((x + minimum) / scale).clamp_(0, kind.top))
    assert spec.scale is not None and spec.offset is not None
    sc8, m8 = (v.reshape(len(W), -1).to(torch.uint8) for v in (sc, m))
    return QTensor(_rows(codes, W), QTensor(sc8, d16, spec.scale), spec, offset=QTensor(m8, -dmin16, spec.offset))


def _k_symmetric(W: Tensor, spec: QuantSpec, importance: Tensor | None) -> Steps[QTensor]:
    """Q3_K and Q6_K: signed codes, and scales that are signed codes too."""
    three = str(spec) == "q3_k"
    half, sub = (4, 32) if three else (32, 128)
    x = _by_weight(W, 16)
    w = x * x
    if importance is not None:
        w = _importance(W, importance, 16, 256, 2.0) if three else _by_weight(importance.expand_as(W), 16)
    search = refine_symmetric if three and importance is None else search_symmetric
    found = yield from search(x, w, half)
    scales = found.scale.reshape(-1, 16)
    if three and importance is not None:
        fitted = yield from search_symmetric(scales.T.contiguous(), total(w).reshape(-1, 16).T.contiguous(), sub)
        sc, d = fitted.codes.T, fitted.scale
    else:
        extreme = farthest(scales.T)
        empty = extreme.abs() < SMALL if not three else extreme == 0
        inverse = over(-sub, extreme.masked_fill(empty, 1))
        sc = torch.round(inverse[:, None] * scales).clamp_(-sub, sub - 1) + sub
        sc = sc.masked_fill(empty[:, None], 0 if three else sub)
        d = (1 / inverse).masked_fill(empty, 0)
    d16 = _half(d, W, spec)
    scale = (d16.float().reshape(-1, 1) * (sc - sub)).flatten()
    codes = torch.where(scale == 0, found.codes, torch.round(x / scale).clamp_(-half, half - 1) + half)
    if not three:  # an empty super-block is all zeros in the file, codes included
        codes = codes.masked_fill((d == 0).repeat_interleave(16), 0)
    assert spec.scale is not None
    return QTensor(_rows(codes, W), QTensor(sc.reshape(len(W), -1).to(torch.uint8), d16, spec.scale), spec)


def _symmetric(W: Tensor, spec: QuantSpec, importance: Tensor | None) -> Steps[QTensor]:
    """Q4_0 and Q5_0: the extreme weight takes the lowest level; with an importance matrix the search of Q6_K."""
    half = 2 ** (spec.bits - 1)
    x = _by_weight(W, 32)
    if importance is not None:
        found = yield from search_symmetric(x, _importance(W, importance, 32, W.shape[1], 1.0), half)
        return QTensor(_rows(found.codes, W), _half(found.scale, W, spec), spec)
    d = farthest(x) / -half
    codes = (x * safe(d) + (half + 0.5)).trunc().clamp_(0, 2 * half - 1)
    return QTensor(_rows(codes, W), _half(d, W, spec), spec)


def _minmax(W: Tensor, spec: QuantSpec, importance: Tensor | None) -> Steps[QTensor]:
    """Q4_1 and Q5_1: plain min-max; with an importance matrix the search of Q4_K."""
    top = 2**spec.bits - 1
    x = _by_weight(W, 32)
    if importance is not None:
        w = _importance(W, importance, 32, W.shape[1], 1.0)
        found = yield from search_affine(x, w, top, *_IMPORTANT)
        return QTensor(_rows(found.codes, W), _half(found.scale, W, spec), spec,
                       offset=_half(cast(Tensor, found.minimum), W, spec))  # fmt: skip
    lo, hi = smallest(x), -smallest(-x)
    d = (hi - lo) / top
    codes = ((x - lo) * safe(d) + 0.5).trunc().clamp_(0, top)
    return QTensor(_rows(codes, W), _half(d, W, spec), spec, offset=_half(lo, W, spec))


def _q8(W: Tensor, spec: QuantSpec, importance: Tensor | None) -> Steps[QTensor]:
    """Q8_0: max|w| / 127, halves away from zero."""
    yield from ()
    x = _by_weight(W, 32)
    d = x.abs().amax(0) / 127
    return QTensor(_rows(ROUNDINGS["half-away"](x * safe(d)) + 128, W), _half(d, W, spec), spec)


def _ternary(W: Tensor, spec: QuantSpec, importance: Tensor | None) -> Steps[QTensor]:
    """TQ1_0 and TQ2_0: max|w| is 1, the rest −1, 0 or 1."""
    yield from ()
    x = _by_weight(W, 256)
    d = x.abs().amax(0)
    return QTensor(_rows(ROUNDINGS["half-away"](x * safe(d)) + 1, W), _half(d, W, spec), spec)


def _nonlinear(W: Tensor, spec: QuantSpec, importance: Tensor | None) -> Steps[QTensor]:
    """IQ4_NL, and IQ4_XS, whose eight scales share one float and six bits each."""
    x = _by_weight(W, 32)
    around = 256 if spec.scale else 32
    w = x * x if importance is None else _importance(W, importance, 32, around, 2.0)
    scale = yield from search_levels(x, w)
    if spec.scale is None:
        return QTensor(_rows(nearest_level(x * safe(scale)), W), _half(scale, W, spec), spec)
    scales = scale.reshape(-1, 8)
    d = -farthest(scales.T) / 32
    sc = torch.round(safe(d)[:, None] * scales).clamp_(-32, 31)
    codes = nearest_level(x * safe((d[:, None] * sc).flatten()))
    sc8 = (sc + 32).reshape(len(W), -1).to(torch.uint8)
    return QTensor(_rows(codes, W), QTensor(sc8, _half(d, W, spec), spec.scale), spec)


def _fp4(W: Tensor, spec: QuantSpec, importance: Tensor | None) -> Steps[QTensor]:
    """MXFP4: a power of two that puts max|w| in the top binade; NVFP4: max|w| / 6 in E4M3. Ties go towards zero."""
    yield from ()
    size = cast(int, spec.group_size)
    x = _by_weight(W, size)
    peak = x.abs().amax(0)
    assert spec.scale is not None
    if spec.scale.grid.name == "e8m0h":
        sc = torch.where(peak > 0, peak.frexp().exponent - 1 - 2 + 127, 0).clamp_(0, 255)
    else:
        sc = _to_ue4m3(peak / 6)
    scale = spec.scale.grid.table[sc.long()]
    half = get_grid("e2m1x2").table[:8]
    # a scale of 0 stands for a group that is: every code but 0 would do as well
    magnitude = torch.bucketize((x.abs() / torch.where(scale == 0, 1, scale)).contiguous(), (half[1:] + half[:-1]) / 2)
    codes = magnitude + 8 * ((x < 0) & (magnitude > 0))
    return QTensor(_rows(codes, W), QTensor(sc.reshape(len(W), -1).to(torch.uint8), None, spec.scale), spec)


def _to_ue4m3(x: Tensor) -> Tensor:
    """Codes of the nearest unsigned E4M3 number; halves away from zero, 448 at most."""
    levels = torch.tensor(get_grid("ue4m3h").levels[:0x7F]) * 2
    codes = torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2, right=True)
    return torch.where(x < 2**-6, codes.clamp(max=7), codes)  # ggml never rounds a subnormal up to a normal number


_SEARCHES: dict[str, Callable[[Tensor, QuantSpec, Tensor | None], Steps[QTensor]]] = {
    "q4_0": _symmetric, "q5_0": _symmetric, "q4_1": _minmax, "q5_1": _minmax, "q8_0": _q8, "q3_k": _k_symmetric,
    "q6_k": _k_symmetric, "iq4_nl": _nonlinear, "iq4_xs": _nonlinear, "mxfp4_ggml": _fp4, "nvfp4_ggml": _fp4,
    "tq1_0": _ternary, "tq2_0": _ternary,
}  # fmt: skip


def _joined(parts: list[QTensor]) -> QTensor:
    """QTensors of consecutive rows as one."""
    if len(parts) == 1:
        return parts[0]

    def part(values: list[Tensor | QTensor | None]) -> Tensor | QTensor | None:
        if isinstance(values[0], QTensor):
            return _joined(cast(list[QTensor], values))
        return None if values[0] is None else torch.cat(cast(list[Tensor], values))

    return QTensor(torch.cat([p.codes for p in parts]), part([p.scale for p in parts]), parts[0].spec,
                   offset=part([p.offset for p in parts]))  # fmt: skip
