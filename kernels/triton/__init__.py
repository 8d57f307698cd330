"""GPU kernels (Triton): plain tensors in and out.

Without Triton, `available` is False and `missing` says why: whatever is called raises RuntimeError. With
TRITON_INTERPRET=1 in the environment before the first import they run on CPU tensors, slowly, for tests and lessons.
"""

from typing import Any as _Any

available = True
missing = ""

try:
    import triton as _triton  # noqa: F401
except ImportError as _error:
    available = False
    missing = f"Triton is not here ({_error}): on Linux, pip install 'qlab[gpu]'"

    def _refused(*_given: _Any, **_named: _Any) -> _Any:
        raise RuntimeError(missing)

    Config = Weights = dequantize = multiply = multiply_int8 = pack = quantize = unpack = _refused
else:
    from .choose import Config
    from .int8 import multiply_int8
    from .launch import dequantize, multiply
    from .quantize import quantize
    from .weights import Weights, pack, unpack

__all__ = [
    "Config", "Weights", "available", "dequantize", "missing", "multiply", "multiply_int8", "pack", "quantize",
    "unpack",
]  # fmt: skip
