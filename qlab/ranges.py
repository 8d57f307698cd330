"""Ranges: from the smallest and largest weight of each group to the scale, zero point or minimum that is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from qlab.grid import Grid
from qlab.qtensor import QTensor, by_group, dense, encode, storage
from qlab.spec import QuantSpec


@dataclass(frozen=True)
class Params:
    """What a rule chose for each group, [lines, groups]; scale and offset may already be stored as QTensors."""

    scale: Tensor | QTensor | None
    zero: Tensor | None = None
    offset: Tensor | QTensor | None = None


def extremes(W: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Smallest and largest weight of each group, both [lines, groups]."""
    lines = W.reshape(spec.lines(W.shape))
    lo = by_group(lambda x: x.amin(-1), lines, spec)
    hi = by_group(lambda x: x.amax(-1), lines, spec)
    return lo, hi


def _sym(lo: Tensor, hi: Tensor, grid: Grid) -> Params:
    """GPTQ `quant.py`: the range ±max|w| is spread over all levels, so 4 bits put max|w| at 7.5 steps."""
    absmax = _nonzero(torch.maximum(lo.abs(), hi.abs()))
    half_span = (len(grid.levels) - 1) / 2 if grid.name.startswith("sint") else grid.absmax
    return Params(absmax / half_span)


def _narrow(lo: Tensor, hi: Tensor, grid: Grid) -> Params:
    """AutoAWQ's symmetric scale: the largest level is max|w|, the most negative code goes unused."""
    return Params(_nonzero(torch.maximum(lo.abs(), hi.abs())) / (2 ** (grid.bits - 1) - 1))


def _extreme(lo: Tensor, hi: Tensor, grid: Grid) -> Params:
    """llama.cpp's Q4_0: the weight farthest from 0 takes the level farthest from 0; the scale carries its sign."""
    level = min(grid.levels, key=lambda x: -abs(x))
    return Params(_nonzero(torch.where(-lo > hi, lo, hi)) / level)


def _mx(lo: Tensor, hi: Tensor, grid: Grid) -> Params:
    """OCP Microscaling v1.0, §6.3: a power of two that puts max|w| in the grid's top binade."""
    # frexp gives m·2^e with ½ ≤ m < 1, so ⌊log2 x⌋ is e − 1, exact where log2 of a float is not
    top = int(torch.tensor(max(x for x in grid.levels if x == x)).frexp().exponent)
    return Params(torch.exp2((_nonzero(torch.maximum(lo.abs(), hi.abs())).frexp().exponent - top).to(lo.dtype)))


def _asym(lo: Tensor, hi: Tensor, grid: Grid) -> Params:
    """GPTQ `quant.py`: zero is forced into the range, so that it is a level; an all-zero group spans ±1."""
    lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    empty = (lo == 0) & (hi == 0)
    lo, hi = torch.where(empty, -1.0, lo), torch.where(empty, 1.0, hi)
    scale = (hi - lo) / (len(grid.levels) - 1)
    return Params(scale, torch.round(-lo / scale))


def _awq(lo: Tensor, hi: Tensor, grid: Grid) -> Params:
    """AWQ `quantizer.py`: zero is not forced into the range, the zero point is clamped instead."""
    top = len(grid.levels) - 1
    scale = ((hi - lo) / top).clamp(min=1e-5)
    return Params(scale, (-torch.round(lo / scale)).clamp(0, top))


def _offset(lo: Tensor, hi: Tensor, grid: Grid) -> Params:
    """Plain min-max with a real minimum: `w ≈ scale·q + min` (Q4_1, and the brief's GGUF formula)."""
    return Params(_nonzero((hi - lo) / (len(grid.levels) - 1)), offset=lo)


def _nonzero(scale: Tensor) -> Tensor:
    """A group without extent gets scale 1, which keeps it in the middle of the grid; but see `fit`."""
    return torch.where(scale == 0, 1.0, scale)


_RULES: dict[str, Callable[[Tensor, Tensor, Grid], Params]] = {
    "sym": _sym, "narrow": _narrow, "extreme": _extreme, "mx": _mx, "asym": _asym, "awq": _awq, "offset": _offset,
    "centered": _sym, "none": lambda lo, hi, grid: Params(None),
}  # fmt: skip


def fit(lo: Tensor, hi: Tensor, spec: QuantSpec) -> Params:
    """Scale, zero and offset by the spec's rule for groups that span [lo, hi]; nothing is rounded but the zero.

    A group without extent has scale 0 where an invented one would do harm: on a grid without a level at 0, and where
    scales have a grid of their own, which the invented one would stretch for its neighbours.
    """
    params = _RULES[spec.rule](lo, hi, spec.grid)
    if params.scale is None or (spec.scale is None and 0.0 in spec.grid.levels):
        return params
    empty = lo == hi if spec.rule == "offset" else (lo == 0) & (hi == 0)
    return replace(params, scale=torch.where(empty, 0.0, cast(Tensor, params.scale)))


def stored(params: Params, spec: QuantSpec) -> Params:
    """The same parameters as the spec stores them: in its dtype, or on their own grid (a recursive spec)."""
    zero = None if params.zero is None else params.zero.to(torch.uint8)
    scale = _stored_part(params.scale, spec.scale, spec, "scale")
    if spec.rule == "centered":  # one mean for the tensor, always float32
        return Params(scale, zero, dense(params.offset))
    return Params(scale, zero, _stored_part(params.offset, spec.offset, spec, "minimum"))


def _stored_part(
    values: Tensor | QTensor | None, inner: QuantSpec | None, outer: QuantSpec, name: str
) -> Tensor | QTensor | None:
    if values is None or isinstance(values, QTensor):
        return values
    if inner:
        return round_to_nearest(values, inner)
    kept = storage(values, outer, name)
    if name == "scale":  # float16 ends at 6e-8: a smaller scale would become 0 and lose its group
        tiny = torch.finfo(kept.dtype).smallest_normal * torch.finfo(kept.dtype).eps
        kept = torch.where(kept == 0, torch.tensor(tiny, dtype=kept.dtype), kept)
    return kept


def minmax(W: Tensor, spec: QuantSpec) -> Params:
    """Scale, zero and offset of every group of `W` [out, in] from its own smallest and largest weight."""
    if spec.rule != "centered":
        return fit(*extremes(W, spec), spec)
    mean = W.mean().reshape(1, 1)
    return replace(fit(*extremes(W - mean, spec), spec), offset=mean)


def round_to_nearest(
    W: Tensor, spec: QuantSpec, params: Params | None = None, rounding: Tensor | None = None
) -> QTensor:
    """Store `params` (by default each group's own range) and take the nearest level of every weight.

    `rounding` [out, in], in grid units, is added before rounding: what AutoRound learns (arXiv 2309.05516, eq. 3).
    """
    params = stored(params or minmax(W, spec), spec)
    codes = encode(W, spec, params.scale, params.zero, params.offset, rounding)
    return QTensor(codes, params.scale, spec, params.zero, params.offset)
