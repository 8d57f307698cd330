"""Random quantized weights of a type and shape, copies of them beyond every cache, and what they give in float64."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..device import INTERPRETED
from ..shipped import NF4
from ..weights import Weights, pack

SHAPES = ((4096, 4096), (4096, 14336), (14336, 4096), (8192, 28672))  # [out, in]
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
TYPES = ("int4-g128-sym",)
OTHERS = ("int4-g128-asym", "nf4-g64", "int3-g128-sym", "int8-g128-sym")
"""Types that are measured at OTHER_SHAPE and OTHER_BATCHES alone."""
OTHER_SHAPE, OTHER_BATCHES = (4096, 14336), (1, 16, 64)
ROTATE = 2**13 if INTERPRETED else 250 * 10**6
"""Bytes of weights that take turns: five times the second-level cache of an H100."""
BOUND = 1e-3
"""Of max error / max magnitude: half a unit of float16 is 4.9e-4, the result's own rounding and the weights'."""


@dataclass(frozen=True)
class Kind:
    """A type by its name: bits, group (None: the row), zeros, a codebook."""

    name: str
    bits: int
    group: int | None
    zero: bool = False
    table: bool = False


def kind_of(name: str) -> Kind:
    """`int4-g128-sym`, `int3-row-asym`, `nf4-g64`. Errors: ValueError."""
    found = re.fullmatch(r"(?:int([1-8])|(nf4))-(?:g(\d+)|row)(?:-(sym|asym))?", name)
    if not found or (found[2] and found[4] == "asym"):
        raise ValueError(f"type {name!r}: write int4-g128-sym, int3-row-asym or nf4-g64")
    return Kind(name, int(found[1] or 4), int(found[3]) if found[3] else None, found[4] == "asym", bool(found[2]))


class Case:
    """Weights of a kind and shape on a device. codes [N, K] uint8, scale and zero [N, groups]."""

    def __init__(self, kind: Kind, shape: tuple[int, int], device: torch.device, most: int):
        self.kind, self.shape, self.device = kind, shape, device
        N, K = shape
        self.group = kind.group or K
        draw = torch.Generator(device).manual_seed(0)
        self.codes = torch.randint(0, 2**kind.bits, shape, dtype=torch.uint8, device=device, generator=draw)
        groups = (N, K // self.group)
        self.scale = (torch.rand(groups, device=device, generator=draw) * 0.02 + 0.005).half()
        self.zero = None
        if kind.zero:
            self.zero = torch.randint(0, 2**kind.bits, groups, device=device, generator=draw)
        self.book = None
        if kind.table:
            self.book = torch.tensor(NF4, dtype=torch.int32, device=device).to(torch.int16).view(torch.float16)
        self.X = torch.randn(most, K, device=device, generator=draw).half()

    @cached_property
    def weights(self) -> Weights:
        """Packed for our kernels."""
        return pack(self.codes, self.scale, self.zero, bits=self.kind.bits, codebook=self.book)

    @cached_property
    def exact(self) -> tuple[Tensor, Tensor]:
        """W in float16, for cuBLAS, and X · Wᵀ in float64 [most, N] of the weights as they are stored."""
        N, K = self.shape
        if self.book is not None:
            levels = self.book.double()[self.codes.long()].view(N, -1, self.group)
        else:
            middle = 2 ** (self.kind.bits - 1) if self.zero is None else self.zero.double()[..., None]
            levels = self.codes.double().view(N, -1, self.group) - middle
        W = (levels * self.scale.double()[..., None]).view(N, K)
        return W.half(), self.X.double() @ W.T

    def error(self, got: Tensor) -> float:
        """Largest error over largest magnitude, of the first rows of X."""
        wanted = self.exact[1][: len(got)]
        return float((got.double() - wanted).abs().max() / wanted.abs().max())


def copies(nbytes: int) -> int:
    """How many matrices of so many bytes no cache holds."""
    return max(1, -(-ROTATE // nbytes))


def clones(tensors: tuple[Tensor, ...], nbytes: int) -> list[tuple[Tensor, ...]]:
    """Tensors, and copies of them beyond every cache."""
    return [tensors] + [tuple(t.clone() for t in tensors) for _ in range(copies(nbytes) - 1)]


def rotated(weights: Weights) -> list[Weights]:
    """The weights and copies of them."""
    both = clones((weights.codes, weights.params), weights.nbytes)
    return [replace(weights, codes=codes, params=params) for codes, params in both]


Product = Callable[[Tensor], Tensor]
"""X [m, K] → X · Wᵀ."""
