"""qlab: the quantization workbench. A weight travels one road: W → Method(Grid, Stats) → QTensor → QLinear → model."""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Functions that share the name of their module (evaluate, compare) are imported from it: `qlab.evaluate` is the module.
# Names load on first use, so that `import qlab` (and `qlab --help`) does not wait for transformers.
_PUBLIC = {
    "errors": ["QlabError"],
    "grid": ["Grid", "get_grid", "grid_names", "register_grid"],
    "bits": ["pack_bits", "unpack_bits"],
    "stats": ["Stats"],
    "step": ["Step", "drain"],
    "spec": ["QuantSpec"],
    "qtensor": ["QTensor"],
    "memory": ["estimate"],
    "methods": ["Method", "get_method", "method_names", "quantize", "register_method"],
    "registry": ["load_plugin"],
    "passes": ["Pass", "register_pass"],
    "recipes": ["Recipe"],
    "nn": ["QLinear"],
    "models": ["load", "load_config"],
    "texts": ["load_text", "tokens"],
    "fixtures": ["load_fixture"],
    "calibration": ["Calibration"],
    "run": ["quantize_", "quantized_copy"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qlab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"qlab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _in_ipython() -> bool:
    """Whether a notebook or an IPython prompt imports us; IPython is never imported to find out."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


if _in_ipython():
    importlib.import_module("qlab.display").register()
