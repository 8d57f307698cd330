"""Kernels that unpack and do nothing else, so that the machine instructions of unpacking can be counted.

Codes become code − middle, fp16, bf16 or int8: from the dense stream of `qlab.bits`, written the plain way, or from the
words of `unpack.py` by the code of `gemm.py` and `int8.py` itself. `scripts/make_record_unpack_cost.py` counts them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import triton
import triton.language as tl

from .compiled import census, compile_kernel
from .int8 import signed_bytes
from .unpack import level, parts, tiles

LENGTH = tl.constexpr(256)  # words of a tile: eight for each of a warp's threads, one load and one store of 16 bytes
THREADS = 32
LEFT_OUT = {"LDG", "STG", "NOP"}
CONVERSIONS = {"I2F", "I2FP", "F2F", "F2FP"}
FLOATS = {"HFMA2", "HADD2", "HMUL2", "FADD", "FFMA", "FMUL"}
TARGETS = {"fp16": tl.float16, "bf16": tl.bfloat16, "int8": tl.int8}


@triton.jit
def unpack_planes(words, out, BITS: tl.constexpr, DTYPE: tl.constexpr, BLOCKS: tl.constexpr):
    """Blocks of int16 words, as the GPU kernels keep them, to code − middle."""
    at = tl.arange(0, LENGTH)
    MIDDLE: tl.constexpr = 2 ** (BITS - 1)
    for block in tl.static_range(BLOCKS):
        tile = ()
        for t in tl.static_range(tiles(BITS)):
            tile = tile + (tl.load(words + (block * tiles(BITS) + t) * LENGTH + at),)  # noqa: RUF005
        for part in tl.static_range(parts(BITS)):
            W = level(tile, None, BITS, part, DTYPE, MIDDLE, None, True)
            tl.store(out + (block * parts(BITS) + part) * LENGTH + at, W)


@triton.jit
def unpack_bytes(words, out, BITS: tl.constexpr, DTYPE: tl.constexpr, BLOCKS: tl.constexpr):
    """The same words as bytes, of 4 or 8 bits, to signed bytes, as the kernel of integer inputs takes them."""
    at = tl.arange(0, 2 * LENGTH)
    for block in tl.static_range(BLOCKS):
        q = tl.load(words + block * 2 * LENGTH + at)
        for half in tl.static_range(8 // BITS):
            tl.store(out + (block * (8 // BITS) + half) * 2 * LENGTH + at, signed_bytes(q, BITS, half, True))


@triton.jit
def from_stream(words, BITS: tl.constexpr, INDEX: tl.constexpr):
    """Code number INDEX of 32, as int32."""
    word: tl.constexpr = INDEX * BITS // 32
    shift: tl.constexpr = INDEX * BITS % 32
    n = words[word] >> shift
    if shift + BITS > 32:
        n |= words[word + 1] << (32 - shift)
    return (n & (2**BITS - 1)).to(tl.int32)


@triton.jit
def unpack_stream(words, out, BITS: tl.constexpr, DTYPE: tl.constexpr, BLOCKS: tl.constexpr):
    """Blocks of 32 codes to a line of BITS int32 words, as GPTQ's files keep them, to code − middle."""
    at = tl.arange(0, LENGTH)
    MIDDLE: tl.constexpr = 2 ** (BITS - 1)
    for block in tl.static_range(BLOCKS):
        tile = ()
        for t in tl.static_range(BITS):
            tile = tile + (tl.load(words + (block * BITS + t) * LENGTH + at).to(tl.uint32),)  # noqa: RUF005
        for i in tl.static_range(32):
            W = (from_stream(tile, BITS, i) - MIDDLE).to(DTYPE)
            tl.store(out + (block * 32 + i) * LENGTH + at, W)


KERNELS = {
    ("planes", "fp16"): (unpack_planes, "i16", "fp16"),
    ("planes", "bf16"): (unpack_planes, "i16", "bf16"),
    ("planes", "int8"): (unpack_bytes, "u8", "i8"),
    ("stream", "fp16"): (unpack_stream, "i32", "fp16"),
    ("stream", "int8"): (unpack_stream, "i32", "i8"),
}
"""By storage and target: the kernel, and the types of what it reads and writes."""


def widths(storage: str, target: str) -> tuple[int, ...]:
    """The widths that a kernel unpacks."""
    return (4, 8) if (storage, target) == ("planes", "int8") else tuple(range(1, 9))


def weights(storage: str, bits: int, target: str) -> int:
    """Codes in a block, for each thread."""
    codes = 32 if storage == "stream" else 2 * 8 // bits if target == "int8" else parts(bits)
    return codes * LENGTH.value // THREADS


def counted(storage: str, bits: int, target: str, capability: int, blocks: int) -> Counter[str]:
    """How often each instruction stands in the machine code for so many blocks, modifiers left out."""
    kernel, word, made = KERNELS[storage, target]
    constants: dict[str, Any] = {"BITS": bits, "DTYPE": TARGETS[target], "BLOCKS": blocks}
    compiled = compile_kernel(kernel, {"words": f"*{word}", "out": f"*{made}"}, constants, capability, warps=1)
    found: Counter[str] = Counter()
    for name, number in census(compiled).instructions.items():
        found[name.split(".")[0]] += number
    return found


def per_weight(storage: str, bits: int, target: str, capability: int) -> dict[str, float]:
    """Instructions of a thread for each weight: all but loads and stores, and of these floats and conversions."""
    three, one = (counted(storage, bits, target, capability, blocks) for blocks in (3, 1))
    spent = {name: three[name] - one[name] for name in three if name not in LEFT_OUT}
    told = {"instructions": sum(spent.values())}
    for part, kinds in (("floats", FLOATS), ("conversions", CONVERSIONS)):
        told[part] = sum(number for name, number in spent.items() if name in kinds)
    return {name: round(number / (2 * weights(storage, bits, target)), 4) for name, number in told.items()}
