"""CPU kernels (C++): plain contiguous arrays in and out, the GIL released while they run."""

from ._native import (
    Decoder,
    block_types,
    decode,
    dequantize,
    dequantize_rows,
    encode,
    features,
    formats,
    isa,
    isas,
    multiply,
    read_sum,
    tile,
    untile,
)

__all__ = [
    "Decoder",
    "block_types",
    "decode",
    "dequantize",
    "dequantize_rows",
    "encode",
    "features",
    "formats",
    "isa",
    "isas",
    "multiply",
    "read_sum",
    "tile",
    "untile",
]
