"""Golden blocks: what llama.cpp's `ggml_quantize_chunk` makes of fixed numbers, with and without importance.

python scripts/make_ggml_fixture.py path/to/libggml-base.so "llama-cpp-python 0.3.36"
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors.torch import save_file

from qlab.ggml import grid_types
from qlab.peers import GGML

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
    ggml = GGML(Path(library))
    W = weights()
    importance = np.square(np.random.default_rng(1).standard_normal(W.shape[1])).astype(np.float32) + np.float32(0.01)
    tensors = {"W": torch.from_numpy(W), "importance": torch.from_numpy(importance)}
    for name in grid_types():
        kind = GGMLQuantizationType[name]
        block, size = GGML_QUANT_SIZES[kind]
        for suffix, weight in (("plain", None), ("imatrix", importance)):
            out = np.zeros((len(W), W.shape[1] // block * size), np.uint8)
            ggml.quantize(W, kind, out, weight)
            tensors[f"{name}.{suffix}"] = torch.from_numpy(out)
    save_file(tensors, FIXTURE, metadata={"source": source})


if __name__ == "__main__":
    main(*sys.argv[1:])
