"""CPU kernels (C++): plain contiguous arrays in and out, the GIL released while they run.

Installed without a compiler, or with QLAB_NO_KERNELS=1 in the environment, `available` is False and `missing` says why:
nothing is offered, whatever is called raises RuntimeError, and qlab does it in torch.
"""

import os as _os
import warnings as _warnings
from typing import Any as _Any

available = True
missing = ""

try:
    if _os.environ.get("QLAB_NO_KERNELS", "0") not in ("", "0"):
        raise ImportError("QLAB_NO_KERNELS is set")
    from ._native import (
        Decoder,
        block_types,
        decode,
        dequantize,
        dequantize_rows,
        encode,
        features,
        floats,
        formats,
        isa,
        isas,
        multiply,
        pack_bits,
        read_sum,
        tile,
        unpack_bits,
        untile,
    )
except ImportError as _error:
    available = False
    missing = f"the compiled kernels are not here ({_error})"

    def _refused(*_given: _Any, **_named: _Any) -> _Any:
        raise RuntimeError(missing)

    def block_types() -> list[str]:
        """None."""
        return []

    def features() -> list[str]:
        """None."""
        return []

    def floats() -> list[str]:
        """None."""
        return []

    def isas() -> list[str]:
        """None."""
        return []

    def formats() -> dict[str, dict[str, _Any]]:
        """None."""
        return {}

    Decoder = decode = dequantize = dequantize_rows = encode = isa = multiply = _refused
    pack_bits = read_sum = tile = unpack_bits = untile = _refused
    _warnings.warn(
        f"qlab: {missing}: torch does their work, many times slower, and packed models stay unpacked. Install a C++ "
        "compiler (Debian: apt-get install g++) and then qlab again",
        RuntimeWarning,
        stacklevel=2,
    )

__all__ = [
    "Decoder",
    "available",
    "block_types",
    "decode",
    "dequantize",
    "dequantize_rows",
    "encode",
    "features",
    "floats",
    "formats",
    "isa",
    "isas",
    "missing",
    "multiply",
    "pack_bits",
    "read_sum",
    "tile",
    "unpack_bits",
    "untile",
]
