"""CPU kernels (C++): plain contiguous arrays in and out, the GIL released while they run."""

from ._native import features, read_sum

__all__ = ["features", "read_sum"]
