"""Round to nearest on the device, straight into packed words: integers of 4 and 8 bits, and codebooks such as NF4.

Two kernels: one finds each group's scale and zero, one rounds and packs. Rules and rounding are those of `asym` and
`sym` (GPTQ's quant.py): zero is a level; symmetric, the largest weight lies half a step inside the last level.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import device
from .checks import check_group, require
from .unpack import parts, places
from .weights import Weights, pack_params, part_columns, table_bits

RULES = ("sym", "asym", "table")


@triton.jit
def larger(a, b):
    """Of `tl.reduce`. (`tl.max` is compiled as Triton is imported: the interpreter may come too late for it.)"""
    return tl.maximum(a, b)


@triton.jit
def nearest_even(x):
    """x rounded to an integer, ties to even, for |x| < 2^22: adding 1.5 · 2^23 leaves no bits below 1."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def ranges(w, scale, zero, N, K, GROUP, TOP: tl.constexpr, RULE: tl.constexpr, BN: tl.constexpr,
           CHUNK: tl.constexpr):  # fmt: skip
    """scale and zero [groups, N], float32, of BN rows of one group."""
    on = tl.program_id(0) * BN + tl.arange(0, BN)
    group = tl.program_id(1)
    least = tl.full((BN, CHUNK), 0, tl.float32)  # 0 counts as a weight: it is to be a level
    most = tl.full((BN, CHUNK), 0, tl.float32)
    for start in range(0, GROUP, CHUNK):
        k = start + tl.arange(0, CHUNK)
        at = w + on.to(tl.int64)[:, None] * K + group * GROUP + k[None, :]
        W = tl.load(at, mask=(on[:, None] < N) & (k[None, :] < GROUP), other=0.0).to(tl.float32)
        least = tl.minimum(least, W)
        most = tl.maximum(most, W)
    low = -tl.reduce(-least, 1, larger)
    high = tl.reduce(most, 1, larger)
    top = tl.maximum(-low, high)
    if RULE == "asym":
        empty = top == 0
        low = tl.where(empty, -1.0, low)
        high = tl.where(empty, 1.0, high)
        s = tl.div_rn(high - low, TOP * 1.0)
        tl.store(zero + group * N + on, nearest_even(tl.div_rn(-low, s)), mask=on < N)
    else:
        reach: tl.constexpr = TOP / 2 if RULE == "sym" else 1.0
        s = tl.div_rn(tl.where(top == 0, 1.0, top), reach + 0 * top)
    tl.store(scale + group * N + on, s, mask=on < N)


@triton.jit
def encode(w, scale, zero, table, words, N, K, GROUP, BITS: tl.constexpr, RULE: tl.constexpr, H: tl.constexpr,
           BN: tl.constexpr):  # fmt: skip
    """Words [blocks, 1, N, H] of BN rows of one block: each part's codes, shifted to their place."""
    block = tl.program_id(0)
    on = tl.program_id(1) * BN + tl.arange(0, BN)
    packed = tl.full((BN, H), 0, tl.int32)
    for part in tl.static_range(parts(BITS)):
        k = (block * parts(BITS) + part) * H + tl.arange(0, H)
        mask = (on[:, None] < N) & (k[None, :] < K)
        W = tl.load(w + on.to(tl.int64)[:, None] * K + k[None, :], mask=mask, other=0.0).to(tl.float32)
        at = (k // GROUP)[None, :] * N + on[:, None]
        level = tl.div_rn(W, tl.load(scale + at, mask=mask, other=1.0).to(tl.float32))
        if RULE == "table":  # the code is how many midpoints of neighbours lie below
            code = tl.full((BN, H), 0, tl.int32)
            for i in tl.static_range(2**BITS - 1):
                code += (level > (tl.load(table + i) + tl.load(table + i + 1)) * 0.5).to(tl.int32)
        else:
            middle = tl.load(zero + at, mask=mask, other=0.0) if RULE == "asym" else 2.0 ** (BITS - 1)
            code = tl.clamp(nearest_even(level) + middle, 0.0, 2.0**BITS - 1).to(tl.int32)
        packed |= tl.where(mask, code, 0) << places(BITS, part)[0][1]
    at = (tl.cast(block, tl.int64) * N + on[:, None]) * H + tl.arange(0, H)[None, :]
    tl.store(words + at, packed.to(tl.int16), mask=on[:, None] < N)


@device.on_device
def quantize(
    W: Tensor, bits: int = 4, group: int = 128, rule: str = "sym", *, codebook: Tensor | None = None,
    dtype: torch.dtype = torch.float16,
) -> Weights:  # fmt: skip
    """W [N, K] (float16, bfloat16, float32) rounded to nearest and packed for X of `dtype`.

    rule: "sym" or "asym" with 1, 2, 4 or 8 bits, or "table" with `codebook`, 16 rising numbers within ±1. group: a
    power of two from 16, or K. Scales are stored in `dtype`, and W is rounded on the stored ones. Errors: ValueError.
    """
    device.check(W, torch.float16)
    require(dtype in (torch.float16, torch.bfloat16), f"dtype is {dtype}: give float16 or bfloat16")
    require(group > 0, f"group is {group}: give a power of two of at least 16, or K")
    check_quantize(W, bits, group, rule, codebook)
    (N, K), groups, H = W.shape, W.shape[1] // group, part_columns(bits, group, W.shape[1])
    scale = torch.empty(groups, N, dtype=torch.float32, device=W.device)
    zero = torch.empty_like(scale)
    BN, chunk = 16, min(triton.next_power_of_2(group), 32)
    ranges[triton.cdiv(N, BN), groups](
        W, scale, zero, N, K, group, TOP=2**bits - 1, RULE=rule, BN=BN, CHUNK=chunk, **device.OPTIONS
    )
    scale = scale.to(dtype)
    require(bool(scale.isfinite().all()), f"a scale is beyond {dtype}: the weights are too large for it")
    book = torch.zeros(16, device=W.device) if codebook is None else codebook.to(W.device, dtype)
    blocks = -(-K // (H * parts(bits)))
    words = torch.empty(blocks, 1, N, H, dtype=torch.int16, device=W.device)
    encode[blocks, triton.cdiv(N, BN)](
        W, scale, zero, book.float(), words, N, K, group, BITS=bits, RULE=rule, H=H, BN=BN, **device.OPTIONS
    )
    kept = None if codebook is None else book
    bare = Weights(bits, (N, K), group, words, torch.empty(0), rule == "asym", dtype, kept, None, table_bits(kept))
    return bare.with_params(pack_params(bare, scale.T, zero.T if rule == "asym" else None))


def check_quantize(W: Tensor, bits: int, group: int, rule: str, codebook: Tensor | None) -> None:
    """What `quantize` is given."""
    require(W.dim() == 2 and W.is_floating_point() and W.numel() > 0, f"W is {W.dtype} {list(W.shape)}: give [N, K]")
    require(bool(W.isfinite().all()), "W is not finite: look for the layer that overflowed")
    require(W.is_contiguous(), f"W has strides {W.stride()}: call W.contiguous()")
    require(bits in (1, 2, 4, 8), f"bits is {bits}: this kernel rounds to 1, 2, 4 or 8; pack() takes codes of any")
    require(W.shape[1] % group == 0, f"group {group} does not divide K = {W.shape[1]}")
    check_group(group, W.shape[1])
    require(rule in RULES, f"there is no rule {rule!r}: give one of {', '.join(RULES)}")
    require((rule == "table") == (codebook is not None), "rule 'table' and a codebook go together")
    if codebook is not None:
        rising = codebook.shape == (16,) and bool((codebook.diff() > 0).all()) and float(codebook.abs().max()) <= 1
        require(rising and bits == 4, "a codebook is 16 rising numbers within ±1, for 4 bits")
