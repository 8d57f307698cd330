"""Random QTensors for the tests of packed matrices: every field drawn on its own, not what a method would make."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qlab.qtensor import QTensor
from qlab.spec import DTYPES, QuantSpec

GGML = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")
PLAIN = tuple(
    f"int{bits}-{group}-{rule}"
    for bits in (2, 3, 4, 8)
    for group in ("g32", "g64", "g128", "row")
    for rule in ("sym", "asym")
)
SPECS = GGML + PLAIN
CODES = ("random", "lowest", "highest")
SCALES = ("random", "powers", "zero", "subnormal")


def made(
    spec: str | QuantSpec, rows: int, columns: int, seed: int = 0, codes: str = "random", scales: str = "random",
    order: bool = False,
) -> QTensor:  # fmt: skip
    """A QTensor of `spec`. codes: one of CODES; scales: one of SCALES, of both signs; order: groups are scattered.

    Of "powers" the scales are ±1 and ±2, minima integers, steps of scales no further than 3 from 0: sums are integers.
    """
    spec, draw = QuantSpec.parse(spec), torch.Generator().manual_seed(seed)
    groups = spec.group_count(columns)
    q = _codes(spec, (rows, columns), draw, codes)
    index = None
    if order:
        index = (torch.arange(columns) // spec.group_in(columns))[torch.randperm(columns, generator=draw)].int()
    if spec.scale is not None:
        minima = None if spec.offset is None else _nested(spec.offset, (rows, groups), draw, scales)
        return QTensor(q, _nested(spec.scale, (rows, groups), draw, scales), spec, None, minima, index)
    zero = _codes(spec, (rows, groups), draw, "random") if spec.has_zero else None
    minima = _reals((rows, groups), spec.dtype, draw, scales) if spec.rule == "offset" else None
    return QTensor(q, _reals((rows, groups), spec.dtype, draw, scales), spec, zero, minima, index)


def stored_in(spec: str, dtype: str) -> QuantSpec:
    """The spec with its scales in a dtype, where they are numbers."""
    found = QuantSpec.parse(spec)
    return found if found.scale is not None else replace(found, dtype=dtype)


def size(Q: QTensor) -> Tensor:
    """|scale · (level − zero)| + |offset|, float64 [rows, columns]: how large a weight's terms are."""
    minima = Q.offset
    terms = QTensor(Q.codes, Q.scale, Q.spec, Q.zero, None, Q.group_index).dequantize(torch.float64).abs()
    if minima is None:
        return terms
    return terms + (Q.dequantize(torch.float64) - replace(Q, offset=None).dequantize(torch.float64)).abs()


def same(a: QTensor, b: QTensor) -> bool:
    """Whether two QTensors hold the same numbers in the same dtypes."""
    if (a.spec, a.shape) != (b.spec, b.shape) or not torch.equal(a.codes, b.codes):
        return False
    for x, y in ((a.scale, b.scale), (a.zero, b.zero), (a.offset, b.offset), (a.group_index, b.group_index)):
        if isinstance(x, QTensor) and isinstance(y, QTensor):
            if not same(x, y):
                return False
        elif (x is None) != (y is None) or (x is not None and (x.dtype != y.dtype or not torch.equal(x, y))):
            return False
    return True


def _codes(spec: QuantSpec, shape: tuple[int, int], draw: torch.Generator, kind: str) -> Tensor:
    levels = spec.grid.levels
    if kind != "random":
        return torch.full(shape, 0 if kind == "lowest" else len(levels) - 1, dtype=torch.uint8)
    return torch.randint(len(levels), shape, generator=draw, dtype=torch.uint8)


def _nested(spec: QuantSpec, shape: tuple[int, int], draw: torch.Generator, scales: str) -> QTensor:
    codes = _codes(spec, shape, draw, "random")
    if scales == "powers":
        first = -int(spec.grid.levels[0])  # the code of 0
        codes = torch.randint(max(0, first - 3), first + 4, shape, generator=draw, dtype=torch.uint8)
    outer = (shape[0], spec.group_count(shape[1]))
    return QTensor(codes, _reals(outer, spec.dtype, draw, scales), spec)


def _reals(shape: tuple[int, int], dtype: str, draw: torch.Generator, kind: str) -> Tensor:
    sign = 1 - 2 * torch.randint(2, shape, generator=draw)
    if kind == "powers":
        return (sign * 2 ** torch.randint(2, shape, generator=draw)).to(DTYPES[dtype])
    smallest = torch.finfo(DTYPES[dtype]).smallest_normal
    reals = sign * (smallest if kind == "subnormal" else 0.1) * torch.rand(shape, generator=draw)
    if kind == "zero":
        reals[:, ::2] = 0
    return reals.to(DTYPES[dtype])
