"""CPU kernels (C++): plain contiguous arrays in and out, the GIL released while they run."""

from ._native import (
    Decoder,
    dequantize,
    dequantize_rows,
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
    "dequantize",
    "dequantize_rows",
    "features",
    "formats",
    "isa",
    "isas",
    "multiply",
    "read_sum",
    "tile",
    "untile",
]
