"""Integer activations: rows of X rounded to 8 (or 4) bits, W of 4 or 8 bits, summed exactly in int32.

A tile of words is read as bytes, without unpacking to 16 bits. Four bits become a signed byte 16 · (code − 8) with one
`lop3` for four weights: mask the nibble at the byte's top, flip its top bit; the factor 16 leaves with the scale. Bytes
alternate between two parts of a block, so `round_rows` writes the rounded X in the very order of those bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import choose, device
from .checks import check_input, require
from .gemm import load_params, scale_of
from .launch import layout_of
from .quantize import larger, nearest_even
from .unpack import parts
from .weights import Weights


@triton.jit
def round_rows(x, codes, scale, K, width, stride, TOP: tl.constexpr, BLOCK: tl.constexpr, H: tl.constexpr):
    """codes [M, width] int8 and scale [M] of one row: max|x| becomes TOP; columns as the weights' bytes lie."""
    row = tl.program_id(0).to(tl.int64)
    p = tl.arange(0, BLOCK)
    # byte p of a block: pairs of bytes hold two parts; the next 2H bytes the two parts after those
    column = (p // (2 * H)) * (2 * H) + (p % 2) * H + (p % (2 * H)) // 2
    top = tl.full((BLOCK,), 0, tl.float32)
    bad = tl.full((BLOCK,), 0, tl.float32)  # maxima pass over NaN
    for start in range(0, width, BLOCK):
        X = tl.load(x + row * stride + start + p, mask=start + p < K, other=0.0)
        top = tl.maximum(top, tl.abs(X.to(tl.float32)))
        bad = tl.maximum(bad, tl.where(X == X, 0.0, 1.0))
    most = tl.reduce(top, 0, larger)
    s = tl.where(most == 0, 1.0, tl.div_rn(most, TOP * 1.0))
    for start in range(0, width, BLOCK):
        X = tl.load(x + row * stride + start + column, mask=start + column < K, other=0.0).to(tl.float32)
        tl.store(codes + row * width + start + p, nearest_even(tl.div_rn(X, s)).to(tl.int8))
    tl.store(scale + row, tl.where(tl.reduce(bad, 0, larger) > 0, float("nan"), s))


@triton.jit
def signed_bytes(q, BITS: tl.constexpr, HALF: tl.constexpr, ASM: tl.constexpr):
    """int8 of bytes: code − 128, or 16 · (code − 8) of the low (HALF 0) or high nibble."""
    shift: tl.constexpr = 4 if BITS == 4 and HALF == 0 else 0
    mask: tl.constexpr = 0xF0 if BITS == 4 else 0xFF
    if ASM:  # 0x6a: (a & b) ^ c, on four bytes at once
        asm: tl.constexpr = BYTES_ASSEMBLY(shift, mask)
        return tl.inline_asm_elementwise(asm, "=r,r", (q,), dtype=tl.int8, is_pure=True, pack=4)
    return (((q << shift) & mask) ^ 0x80).to(tl.int8, bitcast=True)


@triton.constexpr_function
def BYTES_ASSEMBLY(shift, mask):
    """The PTX of `signed_bytes`."""
    return f"{{ .reg .b32 t; shl.b32 t, $1, {shift}; lop3.b32 $0, t, 0x{mask * 0x01010101:08x}, 0x80808080, 0x6a; }}"


@triton.jit
def int8_gemm(x, x_scale, w, params, out, M, N, width, BITS: tl.constexpr, GROUP: tl.constexpr, H: tl.constexpr,
              PAIRS: tl.constexpr, DTYPE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
              STAGES: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """out [M, N] = x_scale · x [M, width] · Wᵀ; GROUP: columns of a scale, 0 where a row has but one."""
    BLOCK: tl.constexpr = parts(BITS) * H
    SPAN: tl.constexpr = GROUP if GROUP else 2**30
    FACTOR: tl.constexpr = 0.0625 if BITS == 4 else 1.0
    om = tl.program_id(0) * BM + tl.arange(0, BM)
    on = tl.program_id(1) * BN + tl.arange(0, BN)
    ob = tl.arange(0, 2 * H)
    blocks = width // BLOCK
    total = tl.full((BN, BM), 0, tl.int32)
    acc = tl.full((BN, BM), 0, tl.float32)
    ahead = load_params(params, 0, on, N, BLOCK, SPAN, PAIRS)
    for block in tl.range(0, blocks, num_stages=STAGES):
        here = ahead
        if GROUP:
            ahead = load_params(params, min(block + 1, blocks - 1), on, N, BLOCK, SPAN, PAIRS)
        at = w + (tl.cast(block, tl.int64) * N + on[:, None]) * (2 * H) + ob[None, :]
        q = tl.load(at, mask=on[:, None] < N, other=0, eviction_policy="evict_first")
        for i in tl.static_range(BLOCK // (2 * H)):
            X = tl.load(x + om.to(tl.int64)[:, None] * width + block * BLOCK + i * 2 * H + ob[None, :],
                        mask=om[:, None] < M, other=0)  # fmt: skip
            total = tl.dot(signed_bytes(q, BITS, i, ASM), X.trans(), total, out_dtype=tl.int32)
            if GROUP and (i + 1 == BLOCK // (2 * H) or ((i + 1) * 2 * H) % SPAN == 0):
                scale = scale_of(here, i * 2, H, SPAN, PAIRS, DTYPE).to(tl.float32) * FACTOR
                acc = tl.fma(total.to(tl.float32), tl.broadcast_to(scale[:, None], acc.shape), acc)
                total = tl.full(total.shape, 0, total.dtype)
    if not GROUP:
        acc = total.to(tl.float32) * (scale_of(ahead, 0, H, SPAN, PAIRS, DTYPE).to(tl.float32) * FACTOR)[:, None]
    acc *= tl.load(x_scale + om, mask=om < M, other=0.0)[None, :]
    tl.store(out + om.to(tl.int64)[:, None] * N + on[None, :], acc.trans().to(DTYPE),
             mask=(om[:, None] < M) & (on[None, :] < N))  # fmt: skip


@device.on_device
def multiply_int8(X: Tensor, weights: Weights, *, bits: int = 8) -> Tensor:
    """X [M, K] rounded row by row to `bits` (8, or 4: simulated, in bytes) times Wᵀ → [M, N] in X's dtype.

    W: symmetric, 4 or 8 bits, groups of at least 2H columns (64 at 4 bits), at most 2^31 / (127 · 128) columns a group.
    Errors: ValueError, RuntimeError.
    """
    device.check(X)
    check_input(X, weights, None)
    check_int8(weights, bits)
    X = X if weights.order is None else X.index_select(1, weights.order)
    (M, K), N, width = X.shape, weights.shape[0], weights.codes.shape[0] * weights.block
    codes = torch.empty(M, width, dtype=torch.int8, device=X.device)
    scale = torch.empty(M, dtype=torch.float32, device=X.device)
    out = torch.empty(M, N, dtype=X.dtype, device=X.device)
    if M == 0:
        return out
    round_rows[(M,)](X, codes, scale, K, width, X.stride(0), TOP=2 ** (bits - 1) - 1, BLOCK=weights.block,
                     H=weights.part, **device.OPTIONS)  # fmt: skip
    tile = choose.INT8
    kept = {name: value for name, value in layout_of(weights).items() if name in ("BITS", "GROUP", "H", "PAIRS", "ASM")}
    int8_gemm[triton.cdiv(M, tile.BM), triton.cdiv(N, tile.BN)](
        codes, scale, weights.codes.view(torch.uint8), weights.params, out, M, N, width, DTYPE=TYPES[X.dtype],
        BM=tile.BM, BN=tile.BN, STAGES=tile.stages, num_warps=tile.warps, num_stages=tile.stages, **kept,
        **device.OPTIONS,
    )  # fmt: skip
    return out


TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def check_int8(weights: Weights, bits: int) -> None:
    """What the integer product cannot do."""
    require(bits in (4, 8), f"activations of {bits} bits: give 8 or 4")
    require(weights.bits in (4, 8), f"weights of {weights.bits} bits: the integer kernel knows 4 and 8")
    require(not weights.has_zero and weights.codebook is None,
            "weights with zeros or a codebook: the integer kernel takes symmetric ones: use multiply()")  # fmt: skip
    require(weights.group % (2 * weights.part) == 0 or weights.group == weights.shape[1],
            f"group {weights.group} is below {2 * weights.part}: use larger groups, or multiply()")  # fmt: skip
    require(weights.group <= 2**31 // (127 * 128), f"group {weights.group} overflows int32: quantize in smaller groups")
