"""The kernels that a GPU is really asked to run, by name: what the tests compile and the record counts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import triton.language as tl

from . import choose
from .dense import dense
from .gemm import gemm
from .int8 import int8_gemm
from .quantize import encode
from .unpack import parts
from .weights import Kind, part_columns

CAPABILITIES = (80, 90)
NF4 = (0xBC00, 0xB992, 0xB833, 0xB652, 0xB48D, 0xB1EB, 0xADD5, 0x0000, 0x2D18, 0x3126, 0x33E0, 0x356A, 0x370B, 0x3880,
       0x39C8, 0x3C00)  # fmt: skip
"""bitsandbytes' NF4 in float16 bits; any other 16 numbers compile to the same instructions."""


@dataclass(frozen=True)
class Shipped:
    """A kernel with its types and constants; product: what it multiplies ("fp16", "bf16", "int8"), nothing if ""."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 3
    product: str = ""


def layout(bits: int, group: int, zero: bool = False, table: tuple[int, ...] | None = None) -> dict[str, Any]:
    """What `launch.layout_of` says of such weights; group 0: one scale a row."""
    H = part_columns(bits, group, K=0)
    pairs = not zero and 0 < 2 * group <= parts(bits) * H
    return {"BITS": bits, "GROUP": group, "H": H, "ZERO": zero, "PAIRS": pairs, "TABLE": table, "ASM": True}


def pointers(**kinds: str) -> dict[str, str]:
    """Types of arguments that are tensors."""
    return {name: f"*{kind}" for name, kind in kinds.items()}


def gemm_of(rows: int, capability: int, dtype: str = "fp16", split: int = 1, bits: int = 4, group: int = 128,
            zero: bool = False, table: tuple[int, ...] | None = None) -> Shipped:  # fmt: skip
    """The fused kernel that a device of this capability runs for so many rows of X."""
    config = choose.choose(rows, capability, Kind(bits, group, zero, table is not None))
    types = pointers(x=dtype, w="i16", params="i32", table=dtype, out=dtype, partial="fp32", count="i32")
    constants = layout(bits, group, zero, table) | {
        "LATE": config.late, "SWAP": config.swap, "BM": config.BM, "BN": config.BN, "SPLIT": split, "LAST": True,
        "ACROSS": 1, "EVEN_N": True, "EVEN_K": True, "STAGES": config.stages,
    }  # fmt: skip
    types |= dict.fromkeys(("M", "N", "K", "x_stride"), "i32")
    return Shipped(gemm, types, constants, config.warps, config.stages, dtype)


def dense_of(bits: int, dtype: str = "fp16", zero: bool = False, table: tuple[int, ...] | None = None) -> Shipped:
    """The kernel that writes weights out."""
    types = pointers(w="i16", params="i32", table=dtype, out=dtype) | {"N": "i32", "K": "i32"}
    constants = layout(bits, 128, zero, table) | {"BN": 32, "EVEN_N": True, "EVEN_K": True}
    return Shipped(dense, types, constants)


def int8_of(bits: int, group: int) -> Shipped:
    """Integer activations."""
    types = pointers(x="i8", x_scale="fp32", w="u8", params="i32", out="fp16")
    types |= dict.fromkeys(("M", "N", "width"), "i32")
    kept = {name: layout(bits, group)[name] for name in ("BITS", "GROUP", "H", "PAIRS", "ASM")}
    tile = choose.INT8
    constants = kept | {"DTYPE": tl.float16, "BM": tile.BM, "BN": tile.BN, "STAGES": tile.stages}
    return Shipped(int8_gemm, types, constants, tile.warps, tile.stages, "int8")


def kernels(capability: int) -> dict[str, Shipped]:
    """Every shipped kernel by its name, whose number is the most rows that it is given."""
    found = {}
    for rows in choose.table(capability):
        found[f"int4-g128 {rows}"] = gemm_of(rows, capability)
        found[f"int4-g128 {rows} bf16"] = gemm_of(rows, capability, "bf16")
        found[f"int4-g128-zero {rows}"] = gemm_of(rows, capability, zero=True)
    found["int4-g128 8 split"] = gemm_of(1, capability, split=4)
    found["int4-g32-zero 8"] = gemm_of(1, capability, group=32, zero=True)
    found["int4-g32-zero 1024 bf16"] = gemm_of(1024, capability, "bf16", group=32, zero=True)
    found["int4-g64 8"], found["int4-row 8"] = gemm_of(1, capability, group=64), gemm_of(1, capability, group=0)
    found["nf4-g64 8"] = gemm_of(1, capability, group=64, table=NF4)
    found["nf4-g64 64 bf16"] = gemm_of(64, capability, "bf16", group=64, table=NF4)
    found["nf4-row 16"] = gemm_of(16, capability, group=0, table=NF4)
    found["nf4-row 1024"] = gemm_of(1024, capability, group=0, table=NF4)
    for bits in (2, 6, 8):
        found[f"int{bits}-g128 8"] = gemm_of(1, capability, bits=bits)
    for bits in (1, 3, 5, 7):
        found[f"int{bits}-g128 16"] = gemm_of(1, capability, bits=bits)
    found["int3-g32-zero 16"] = gemm_of(1, capability, bits=3, group=32, zero=True)
    for name, bits, zero in (("Q2_K", 2, True), ("Q3_K", 3, False), ("Q6_K", 6, False)):
        found[f"{name} 16"] = gemm_of(1, capability, bits=bits, group=16, zero=zero)
    found["Q6_K 1024"] = gemm_of(1024, capability, bits=6, group=16)
    found["int8-g128 8 bf16"] = gemm_of(1, capability, "bf16", bits=8)
    found["int3-g128-zero 64"] = gemm_of(64, capability, bits=3, zero=True)
    found["int4-g128 dense"], found["nf4-g128 dense"] = dense_of(4), dense_of(4, table=NF4)
    found["int4-g128 int8"], found["int8-row int8"] = int8_of(4, 128), int8_of(8, 0)
    found["int4-sym round"] = encode_of("sym")
    return found


def every(capability: int) -> dict[str, Shipped]:
    """The fused kernel for all kinds of weights that `pack` takes, in each tile: half an hour's work for a compiler."""
    kinds = [(bits, False, None) for bits in range(1, 9)] + [(bits, True, None) for bits in range(1, 9)]
    found = {}
    for rows, (bits, zero, table), group, dtype in itertools.product(
        choose.table(capability), [*kinds, (4, False, NF4)], (0, 16, 32, 64, 128), ("fp16", "bf16")
    ):
        name = f"{'nf4' if table else f'int{bits}'}-{f'g{group}' if group else 'row'}{'-zero' * zero} {rows} {dtype}"
        found[name] = gemm_of(rows, capability, dtype, 1, bits, group, zero, table)
    return found


def encode_of(rule: str) -> Shipped:
    """Rounding to 4 bits."""
    types = pointers(w="fp16", scale="fp16", zero="fp32", table="fp32", words="i16")
    types |= dict.fromkeys(("N", "K", "GROUP"), "i32")
    return Shipped(encode, types, {"BITS": 4, "RULE": rule, "H": 64, "BN": 16})
