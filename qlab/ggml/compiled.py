"""The compiled encoders and decoders of blocks: the very bytes and numbers of the torch code, many times as fast.

Nothing depends on them. `encode` says None where torch has to do the work: without the kernels, or where a number or a
scale is not finite, of which torch's code knows what to say.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qlab.ggml import BlockType, GridType
from qlab.kernels import cpu


def encode(kind: GridType, W: Tensor, importance: Tensor | None = None) -> Tensor | None:
    """The bytes uint8 [rows, bytes of a row] of W [rows, row] that the method `ggml` chooses and `kind` packs, or None.

    importance: the mean x² of each column [row].
    """
    if not cpu.available or W.numel() == 0 or W.shape[1] % kind.weights or not W.is_floating_point():
        return None
    W = W.detach().cpu().float().contiguous()
    weights = None if importance is None else importance.float().contiguous()
    out = torch.empty(len(W), W.shape[1] // kind.weights * kind.nbytes, dtype=torch.uint8, device="cpu")
    return out if cpu.encode(kind.name, W, out, weights, torch.get_num_threads()) else None


def decode(kind: BlockType, data: np.ndarray) -> Tensor:
    """The numbers, float32 [..., row], of stored bytes uint8 [..., bytes of a row]."""
    if not cpu.available or not isinstance(kind, GridType) or data.size == 0 or data.shape[-1] % kind.nbytes:
        return kind.decode(torch.from_numpy(data.copy()))
    rows = data.reshape(-1, data.shape[-1])
    out = torch.empty(len(rows), rows.shape[1] // kind.nbytes * kind.weights, dtype=torch.float32, device="cpu")
    cpu.decode(kind.name, rows, out, torch.get_num_threads())
    return out.reshape(*data.shape[:-1], -1)
