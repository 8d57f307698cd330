"""The kernels that a GPU is really asked to run, by name: what the tests compile and the record counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .choose import Config
from .gemm import gemm
from .unpack import parts

CAPABILITIES = (80, 90)
NF4 = (0xBC00, 0xB992, 0xB833, 0xB652, 0xB48D, 0xB1EB, 0xADD5, 0x0000, 0x2D18, 0x3126, 0x33E0, 0x356A, 0x370B, 0x3880,
       0x39C8, 0x3C00)  # fmt: skip
"""bitsandbytes' NF4 in float16 bits; any other 16 numbers compile to the same instructions."""


@dataclass(frozen=True)
class Shipped:
    """A kernel with its types and constants, and what its machine code must hold."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 3
    product: bool = True


def gemm_of(config: Config, bits: int = 4, group: int = 128, dtype: str = "fp16", zero: bool = False,
            table: tuple[int, ...] | None = None, split: int = 1) -> Shipped:  # fmt: skip
    """The fused kernel of a configuration; group 0: one scale a row."""
    H = min(256 // parts(bits), group or 256)
    pointers = {"x": dtype, "w": "i16", "params": "i32", "table": dtype, "out": dtype, "partial": "fp32", "count": "i32"}
    types = {name: f"*{kind}" for name, kind in pointers.items()} | dict.fromkeys(("M", "N", "K", "x_stride"), "i32")
    constants = {
        "BITS": bits, "GROUP": group, "H": H, "ZERO": zero, "PAIRS": not zero and 0 < 2 * group <= parts(bits) * H,
        "TABLE": table, "SWAP": config.swap, "BM": config.BM, "BN": config.BN, "SPLIT": split, "LAST": True,
        "ACROSS": 1, "EVEN_N": True, "EVEN_K": True, "STAGES": config.stages, "ASM": True,
    }  # fmt: skip
    return Shipped(gemm, types, constants, config.warps, config.stages)
