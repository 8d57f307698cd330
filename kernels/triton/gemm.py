"""X·Wᵀ with W unpacked in registers: one kernel from one row to thousands.

A tile of words is copied to shared memory by `cp.async`, several stages ahead; `ldmatrix` brings it to registers as a
tensor core's operand wants it, `lop3` and `fma` make weights of it, in place. With SWAP the kernel multiplies W·Xᵀ:
the weights are the left operand, which wgmma takes from registers, and 8 tokens fill an instruction that otherwise
needs 64. Integer weights are exact in 16 bits, so the scale waits for the sum of its group, in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .unpack import level, parts, tiles


@triton.jit
def load_words(w, block, rows, N, BITS: tl.constexpr, H: tl.constexpr, EVEN_N: tl.constexpr):
    """The tiles of a block, a tuple of words [rows, H]; nobody reads weights again, so they leave the cache first."""
    at = w + tl.cast(block, tl.int64) * (tiles(BITS) * N * H) + rows[:, None] * H + tl.arange(0, H)[None, :]
    mask = None if EVEN_N else rows[:, None] < N
    words = ()
    for t in tl.static_range(tiles(BITS)):
        tile = tl.load(at + t * N * H, mask=mask, eviction_policy="evict_first")
        words = words + (tile,)  # noqa: RUF005 (Triton knows no starred tuples)
    return words


@triton.jit
def load_params(params, block, rows, N, BLOCK: tl.constexpr, GROUP: tl.constexpr, PAIRS: tl.constexpr):
    """The words with scales and zeros of a block, a tuple of int32 [rows]."""
    WORDS: tl.constexpr = 1 if GROUP >= BLOCK else BLOCK // GROUP // (2 if PAIRS else 1)
    first = (block * BLOCK) // GROUP if GROUP >= BLOCK else block * WORDS
    words = ()
    for i in tl.static_range(WORDS):
        at = params + (first + i) * N + rows
        words = words + (tl.load(at, mask=rows < N, other=0),)  # noqa: RUF005
    return words


@triton.jit
def low_half(words, DTYPE: tl.constexpr):
    """The 16-bit float in the low half of each word."""
    return words.to(tl.int16).to(DTYPE, bitcast=True)


@triton.jit
def high_half(words, DTYPE: tl.constexpr):
    """The 16-bit float in the high half of each word."""
    return (words >> 16).to(tl.int16).to(DTYPE, bitcast=True)


@triton.jit
def scale_of(words, PART: tl.constexpr, H: tl.constexpr, GROUP: tl.constexpr, PAIRS: tl.constexpr,
             DTYPE: tl.constexpr):  # fmt: skip
    """Scale of a part [rows], from the words of its block."""
    group: tl.constexpr = (PART * H) // GROUP
    if not PAIRS:
        return low_half(words[group], DTYPE)
    if group % 2 == 0:
        return low_half(words[group // 2], DTYPE)
    return high_half(words[group // 2], DTYPE)


@triton.jit
def gemm(x, w, params, table, out, partial, count, M, N, K, x_stride,
         BITS: tl.constexpr, GROUP: tl.constexpr, H: tl.constexpr, ZERO: tl.constexpr, PAIRS: tl.constexpr,
         TABLE: tl.constexpr, LATE: tl.constexpr, SWAP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
         SPLIT: tl.constexpr, LAST: tl.constexpr, ACROSS: tl.constexpr, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr,
         STAGES: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """out [M, N] = x [M, K] · Wᵀ.

    The grid is (ACROSS row tiles, column tiles, the other row tiles × SPLIT): programs that run together share tiles
    of both operands, and nothing is divided. GROUP: columns of a scale, 0 where a row has but one.
    SPLIT > 1: each program sums a share of the blocks into partial [SPLIT, M, N], float32. LAST: the program that
    finishes a tile last adds the shares up, in their order, and leaves count at 0; else `add_shares` does it later.
    """
    DTYPE: tl.constexpr = x.dtype.element_ty
    BLOCK: tl.constexpr = parts(BITS) * H
    SPAN: tl.constexpr = GROUP if GROUP else 2**30
    MIDDLE: tl.constexpr = 0 if ZERO or TABLE is not None else 2 ** (BITS - 1)
    share = tl.program_id(2) % SPLIT
    row = tl.program_id(2) // SPLIT * ACROSS + tl.program_id(0)
    om = row * BM + tl.arange(0, BM)
    on = tl.program_id(1) * BN + tl.arange(0, BN)
    blocks = (K + BLOCK - 1) // BLOCK
    per = (blocks + SPLIT - 1) // SPLIT
    first = share * per
    last = min(first + per, blocks)
    rows = x + om.to(tl.int64)[:, None] * x_stride + tl.arange(0, H)[None, :]
    ahead = load_params(params, min(first, blocks - 1), on, N, BLOCK, SPAN, PAIRS)
    acc = tl.full((BN, BM) if SWAP else (BM, BN), 0, tl.float32)
    for block in tl.range(first, last, num_stages=STAGES):
        here = ahead
        if GROUP:  # read a block ahead: nothing else would hide the wait
            ahead = load_params(params, min(block + 1, last - 1), on, N, BLOCK, SPAN, PAIRS)
        words = load_words(w, block, on, N, BITS, H, EVEN_N)
        inner = tl.full(acc.shape, 0, acc.dtype) if GROUP and LATE else acc
        for part in tl.static_range(parts(BITS)):
            k = block * BLOCK + part * H
            seen = om[:, None] < M if EVEN_K else (om[:, None] < M) & (k + tl.arange(0, H)[None, :] < K)
            X = tl.load(rows + k, mask=seen, other=0.0)
            W = level(words, table, BITS, part, DTYPE, MIDDLE, TABLE, ASM)
            if ZERO:
                W -= high_half(here[(part * H) // SPAN], DTYPE)[:, None]
            if GROUP and not LATE:
                W *= scale_of(here, part, H, SPAN, PAIRS, DTYPE)[:, None]
            inner = tl.dot(W, X.trans(), inner) if SWAP else tl.dot(X, W.trans(), inner)
            if GROUP and LATE and (part + 1 == parts(BITS) or ((part + 1) * H) % SPAN == 0):
                scale = scale_of(here, part, H, SPAN, PAIRS, DTYPE).to(tl.float32)
                acc = tl.fma(inner, tl.broadcast_to(scale[:, None] if SWAP else scale[None, :], acc.shape), acc)
                inner = tl.full(acc.shape, 0, acc.dtype)
        if not (GROUP and LATE):
            acc = inner
    if not GROUP:
        scale = low_half(ahead[0], DTYPE).to(tl.float32)
        acc *= scale[:, None] if SWAP else scale[None, :]
    if SWAP:
        acc = acc.trans()
    at = om.to(tl.int64)[:, None] * N + on[None, :]
    mask = (om[:, None] < M) & (on[None, :] < N)
    if SPLIT == 1:
        tl.store(out + at, acc.to(DTYPE), mask=mask)
    else:
        size = tl.cast(M, tl.int64) * N
        tl.store(partial + share * size + at, acc, mask=mask)
        if LAST:
            tile = count + row * tl.num_programs(1) + tl.program_id(1)
            tl.debug_barrier()  # every thread has written before one of them says so
            if tl.atomic_add(tile, 1, sem="acq_rel") == SPLIT - 1:
                acc = tl.full((BM, BN), 0, tl.float32)
                for i in range(SPLIT):
                    acc += tl.load(partial + i * size + at, mask=mask, other=0.0, cache_modifier=".cg")
                tl.store(out + at, acc.to(DTYPE), mask=mask)
                tl.store(tile, 0)


@triton.jit
def add_shares(partial, out, size, SPLIT: tl.constexpr, LENGTH: tl.constexpr):
    """out = the sum of partial [SPLIT, size] over its shares, in their order."""
    at = tl.program_id(0).to(tl.int64) * LENGTH + tl.arange(0, LENGTH)
    acc = tl.full((LENGTH,), 0, tl.float32)
    for i in range(SPLIT):
        acc += tl.load(partial + i * tl.cast(size, tl.int64) + at, mask=at < size, other=0.0)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=at < size)
