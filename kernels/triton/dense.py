"""W_hat [N, K] from packed weights: what many rows are multiplied by, and what every fused kernel is held to."""

from __future__ import annotations

import triton
import triton.language as tl

from .gemm import high_half, load_params, load_words, scale_of
from .unpack import level, parts


@triton.jit
def dense(w, params, table, out, N, K, BITS: tl.constexpr, GROUP: tl.constexpr,
          H: tl.constexpr, ZERO: tl.constexpr, PAIRS: tl.constexpr, TABLE: tl.constexpr, BN: tl.constexpr,
          EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """out [N, K] = scale · (code − zero), rounded once; a program does BN rows of one block of columns."""
    DTYPE: tl.constexpr = out.dtype.element_ty
    BLOCK: tl.constexpr = parts(BITS) * H
    SPAN: tl.constexpr = GROUP if GROUP else 2**30
    MIDDLE: tl.constexpr = 0 if ZERO or TABLE is not None else 2 ** (BITS - 1)
    block = tl.program_id(0)
    on = tl.program_id(1) * BN + tl.arange(0, BN)
    words = load_words(w, block, on, N, BITS, H, EVEN_N)
    here = load_params(params, block, on, N, BLOCK, SPAN, PAIRS)
    for part in tl.static_range(parts(BITS)):
        k = block * BLOCK + part * H + tl.arange(0, H)
        W = level(words, table, BITS, part, DTYPE, MIDDLE, TABLE, ASM)
        if ZERO:
            W -= high_half(here[(part * H) // SPAN], DTYPE)[:, None]
        W *= scale_of(here, part, H, SPAN, PAIRS, DTYPE)[:, None]
        mask = on[:, None] < N if EVEN_K else (on[:, None] < N) & (k[None, :] < K)
        tl.store(out + on.to(tl.int64)[:, None] * K + k[None, :], W, mask=mask)
