"""Random quantized weights, the same in float64, and the bound that every kernel is held to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from qlab.kernels import triton as kernels

BOUND = 1e-3
"""Of max error / max magnitude: half a unit of float16 is 4.9e-4, the result's own rounding and the weight's."""


@dataclass(frozen=True)
class Case:
    """Packed weights and their exact value W [N, K], float64."""

    weights: kernels.Weights
    W: torch.Tensor


def case(bits, N, K, group, zero=False, order=False, codebook=None, seed=0):
    """Weights of such a kind; group None: a scale a row."""
    draw = torch.Generator().manual_seed(seed)
    groups = K // (group or K)
    codes = torch.randint(0, 2**bits, (N, K), dtype=torch.uint8, generator=draw)
    scale = (torch.rand(N, groups, generator=draw) * 0.02 + 0.005).half()
    zeros = torch.randint(0, 2**bits, (N, groups), generator=draw) if zero else None
    places = torch.randperm(K, generator=draw) if order else None
    weights = kernels.pack(codes, scale, zeros, bits=bits, order=places, codebook=codebook)
    level = codes.double() if codebook is None else codebook.half().double()[codes.long()]
    of_group = torch.arange(K) // (group or K)
    if places is not None:
        of_group = torch.empty_like(of_group).index_copy_(0, places, of_group)
    middle = zeros.double()[:, of_group] if zero else 0 if codebook is not None else 2 ** (bits - 1)
    return Case(weights, (level - middle) * scale.double()[:, of_group])


def inputs(M, K, seed=0):
    """X [M, K] float16."""
    return torch.randn(M, K, generator=torch.Generator().manual_seed(seed)).half()


def error(got, wanted):
    """Largest error over largest magnitude."""
    return float((got.double() - wanted).abs().max() / wanted.abs().max())
