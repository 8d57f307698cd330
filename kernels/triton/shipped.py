"""The kernels that a GPU is really asked to run, by name: what the tests compile and the record counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import triton.language as tl

from . import choose
from .choose import Config
from .dense import dense
from .gemm import gemm
from .int8 import int8_gemm
from .quantize import encode
from .unpack import parts
from .weights import part_columns

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


def gemm_of(config: Config, dtype: str = "fp16", split: int = 1, bits: int = 4, group: int = 128, zero: bool = False,
            table: tuple[int, ...] | None = None) -> Shipped:  # fmt: skip
    """The fused kernel of a configuration."""
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
    """Every shipped kernel by its name, with the tiles that a device of this capability is given."""
    found = {}
    for rows, config in choose.table(capability).items():
        found[f"int4-g128 {rows}"] = gemm_of(config)
        found[f"int4-g128 {rows} bf16"] = gemm_of(config, "bf16")
        found[f"int4-g128-zero {rows}"] = gemm_of(config, zero=True)
    one, many = (choose.choose(rows, capability) for rows in (1, 64))
    found["int4-g128 8 split"] = gemm_of(one, split=4)
    found["int4-g32-zero 8"], found["int4-g64 8"] = gemm_of(one, group=32, zero=True), gemm_of(one, group=64)
    found["int4-row 8"] = gemm_of(one, group=0)
    found["nf4-g64 8"], found["nf4-g64 64 bf16"] = gemm_of(one, group=64, table=NF4), gemm_of(many, "bf16", table=NF4)
    for bits in (1, 2, 3, 5, 6, 7, 8):
        config = choose.choose(1, capability, bits)
        found[f"int{bits}-g128 {config.BM}"] = gemm_of(config, bits=bits)
    for bits, zero in ((2, True), (3, False), (6, False)):  # Q2_K, Q3_K, Q6_K
        config = choose.choose(1, capability, bits, group=16)
        found[f"int{bits}-g16{'-zero' * zero} {config.BM}"] = gemm_of(config, bits=bits, group=16, zero=zero)
    found["int6-g16 1024"] = gemm_of(choose.choose(1024, capability, 6, group=16), bits=6, group=16)
    found["int8-g128 8 bf16"] = gemm_of(one, "bf16", bits=8)
    found["int3-g128-zero 64"] = gemm_of(many, bits=3, zero=True)
    found["int4-g128 dense"], found["nf4-g128 dense"] = dense_of(4), dense_of(4, table=NF4)
    found["int4-g128 int8"], found["int8-row int8"] = int8_of(4, 128), int8_of(8, 0)
    found["int4-sym round"] = encode_of("sym")
    return found


def encode_of(rule: str) -> Shipped:
    """Rounding to 4 bits."""
    types = pointers(w="fp16", scale="fp16", zero="fp32", table="fp32", words="i16")
    types |= dict.fromkeys(("N", "K", "GROUP"), "i32")
    return Shipped(encode, types, {"BITS": 4, "RULE": rule, "H": 64, "BN": 16})
