"""CPU kernels (C++): plain contiguous arrays in and out, the GIL released while they run."""

from ._native import block_types, decode, encode, encode_isas, features, read_sum

__all__ = ["block_types", "decode", "encode", "encode_isas", "features", "read_sum"]
