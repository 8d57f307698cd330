"""Other tools' compiled functions, called where they are installed, to measure beside them; nothing depends on them."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import numpy as np


class GGML:
    """The quantizers of llama.cpp, from the shared library that llama-cpp-python brings along."""

    def __init__(self, library: Path):
        self._quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._quantize.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
        self._quantize.restype = ctypes.c_size_t

    def quantize(self, W: np.ndarray, type_number: int, out: np.ndarray, importance: np.ndarray | None = None) -> None:
        """Encode W float32 [rows, row], C-contiguous, into out uint8 [rows, bytes of a row]; the GIL is free meanwhile.

        importance: weight of each column, float32 [row]. ValueError where `out` is not what the type takes.
        """
        weights = None if importance is None else importance.ctypes.data
        written = self._quantize(type_number, W.ctypes.data, out.ctypes.data, 0, *W.shape, weights)
        if written != out.size:
            raise ValueError(f"{written} bytes were written where {out.size} were expected")


def ggml() -> GGML | None:
    """llama.cpp's quantizers, or None where llama-cpp-python is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for library in sorted((Path(folder) / "lib").glob("libggml-base.*")):
            return GGML(library)
    return None
