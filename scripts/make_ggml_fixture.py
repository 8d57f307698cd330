"""Golden blocks: what llama.cpp's `ggml_quantize_chunk` makes of fixed numbers, with and without importance.

python scripts/make_ggml_fixture.py path/to/libggml-base.so "llama-cpp-python 0.3.36"
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors.torch import save_file

from qlab.ggml import grid_types

FIXTURE = Path(__file__).parents[1] / "tests/data/ggml_blocks.safetensors"


def weights() -> np.ndarray:
    """[12, 1024]: Gaussian rows, and rows that searches stumble over."""
    rng = np.random.default_rng(0)
    W = (0.05 * rng.standard_normal((12, 1024))).astype(np.float32)
    W[1] = 0  # nothing
    W[2, 64:160] = 0  # empty groups among others
    W[3] = np.abs(W[3])  # no negative weight: minima of 0
    W[4] = -np.abs(W[4])
    W[5] = 0.02 * rng.standard_t(2, 1024)  # heavy tails
    W[6] *= 1e-4
    W[7] *= 1e3
    W[8, :512] = 0.25  # one value throughout
    W[9] = np.round(W[9] * 40) / 40  # ties
    return W


def main(library: str, source: str) -> None:
    """Write the fixture."""
    quantize_chunk = ctypes.CDLL(library).ggml_quantize_chunk
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, integer, integer, integer, pointer]
    quantize_chunk.restype = ctypes.c_size_t
    W = weights()
    importance = np.square(np.random.default_rng(1).standard_normal(W.shape[1])).astype(np.float32) + np.float32(0.01)
    tensors = {"W": torch.from_numpy(W), "importance": torch.from_numpy(importance)}
    for name in grid_types():
        kind = GGMLQuantizationType[name]
        block, size = GGML_QUANT_SIZES[kind]
        for suffix, weight in (("plain", None), ("imatrix", importance.ctypes.data)):
            out = np.zeros((len(W), W.shape[1] // block * size), np.uint8)
            assert quantize_chunk(kind, W.ctypes.data, out.ctypes.data, 0, *W.shape, weight) == out.size
            tensors[f"{name}.{suffix}"] = torch.from_numpy(out)
    save_file(tensors, FIXTURE, metadata={"source": source})


if __name__ == "__main__":
    main(*sys.argv[1:])
