"""Every encoder beside `ggml_quantize_chunk`, on fresh numbers: the share of equal blocks, with weights and without."""

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from interop.llama import llama_cpp

from qlab.ggml import grid_type, grid_types
from qlab.methods import quantize
from qlab.peers import ggml
from qlab.stats import Stats

ROWS, ROW = 64, 2048
LEAST = 0.999
"""Of all blocks: where the last bit of a sum decides, a compiler that fuses products into sums decides otherwise."""


def numbers(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    W = 0.02 * torch.randn(ROWS, ROW, generator=g)
    W[0], W[1, ::2] = 0, 0
    W[2] = torch.where(torch.rand(ROW, generator=g) < 0.5, -0.0, 0.0)  # what a product with zero leaves
    W[3] = W[3] * (torch.arange(ROW) % 4 > 0) * torch.where(torch.rand(ROW, generator=g) < 0.5, -1.0, 1.0)
    W[4], W[5] = W[4].abs(), -W[5].abs()
    W[6, ::97] *= 50
    return W


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", grid_types())
def test_blocks_are_ggmls(name, weighted):
    assert llama_cpp
    kind, W = grid_type(name), numbers(seed=5)
    stats = None
    if weighted:
        stats = Stats(ROW, gram=False)
        stats.tokens, stats.sq_sum = 1, torch.rand(ROW, generator=torch.Generator().manual_seed(9)).double() ** 2
    ours = kind.pack(quantize(W, kind.spec, "ggml", stats=stats)).numpy()
    theirs = np.zeros_like(ours)
    importance = None if stats is None else stats.mean_sq.float().numpy()
    ggml().quantize(W.numpy(), GGMLQuantizationType[name], theirs, importance)
    same = (ours.reshape(-1, kind.nbytes) == theirs.reshape(-1, kind.nbytes)).all(1)
    print(f"{name}{' weighted' if weighted else ''}: {same.mean():.5f}")
    assert same.mean() >= LEAST
