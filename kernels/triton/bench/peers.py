"""Other tools' products of the same codes, where they can be imported: torch's tinygemm, gemlite, Marlin by vLLM.

Each function gives products over copies of the weights, or raises: the reason is noted, and the peer left out.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import torch

from ..device import INTERPRETED
from .cases import Case, Product, clones, copies

BOUND = 2e-2
"""Of a peer's error over the largest magnitude: bfloat16 twice, with room; another layout of the codes gives 1."""


class NotHere(Exception):
    """Why a peer does not take part."""


def cublas(case: Case) -> list[Product]:
    """The product in float16 that all is held against."""
    W = case.exact[0]
    return [lambda X, W=w: X @ W.T for (w,) in clones((W,), W.nbytes)]  # type: ignore[misc]


def tinygemm(case: Case) -> list[Product]:
    """torch's own, in bfloat16."""
    _need_gpu()
    if case.kind.bits != 4 or case.kind.table or case.group not in (32, 64, 128, 256):
        raise NotHere("tinygemm knows integers of 4 bits in groups of 32 to 256")
    pairs = case.codes[:, ::2] << 4 | case.codes[:, 1::2]
    words = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), 8)
    scale = case.scale.float()
    shift = torch.zeros_like(scale) if case.zero is None else (8 - case.zero.float()) * scale  # of (code − 8) · scale
    both = torch.stack([scale.T, shift.T], 2).bfloat16().contiguous()
    group, run = case.group, torch.ops.aten._weight_int4pack_mm
    nbytes = words.nbytes + both.nbytes
    return [lambda X, w=w, b=b: run(X, w, group, b) for w, b in clones((words, both), nbytes)]  # type: ignore[misc]


def gemlite(case: Case) -> list[Product]:
    """gemlite's Triton kernels."""
    _need_gpu()
    _need("gemlite")
    if case.kind.bits not in (1, 2, 4, 8) or case.kind.table:
        raise NotHere("gemlite knows integers of 1, 2, 4 and 8 bits")
    from gemlite.core import DType, GemLiteLinearTriton

    N, K = case.shape
    layer = GemLiteLinearTriton(
        case.kind.bits, group_size=case.group, in_features=K, out_features=N, input_dtype=DType.FP16,
        output_dtype=DType.FP16,
    )  # fmt: skip
    zeros = 2 ** (case.kind.bits - 1) if case.zero is None else case.zero.half().reshape(-1, 1)
    layer.pack(case.codes, case.scale.reshape(-1, 1), zeros, None)
    more = copies(layer.W_q.nbytes) - 1
    return [one.__call__ for one in (layer, *(copy.deepcopy(layer) for _ in range(more)))]


def marlin(case: Case) -> list[Product]:
    """Marlin, as vLLM builds it."""
    _need_gpu()
    _need("vllm")
    plain = case.kind.bits == 4 and not case.kind.table and case.zero is None
    if not plain or case.group not in (32, 64, 128, case.shape[1]):
        raise NotHere("Marlin is asked for symmetric integers of 4 bits")
    from vllm import _custom_ops as ops
    from vllm.model_executor.layers.quantization.utils import marlin_utils as utils
    from vllm.scalar_type import scalar_types

    N, K = case.shape
    rows = case.codes.T.reshape(K // 8, 8, N).int()
    words = sum(rows[:, i] << 4 * i for i in range(8))  # GPTQ's [K/8, N]
    empty = torch.empty(0, dtype=torch.int, device=case.device)
    tiles = ops.gptq_marlin_repack(words.contiguous(), empty, K, N, 4)  # type: ignore[union-attr]
    scale = utils.marlin_permute_scales(case.scale.T.contiguous(), K, N, case.group)
    room = utils.marlin_make_workspace_new(case.device)

    def product(tiles: torch.Tensor, scale: torch.Tensor) -> Product:
        return lambda X: utils.apply_gptq_marlin_linear(
            input=X, weight=tiles, weight_scale=scale, weight_zp=empty, g_idx=empty, g_idx_sort_indices=empty,
            workspace=room, wtype=scalar_types.uint4b8, output_size_per_partition=N, input_size_per_partition=K,
            is_k_full=True,
        )  # fmt: skip

    return [product(*both) for both in clones((tiles, scale), tiles.nbytes + scale.nbytes)]


INPUTS = {"tinygemm": torch.bfloat16}
"""Of those that do not take float16."""
PEERS: dict[str, Callable[[Case], list[Product]]] = {"tinygemm": tinygemm, "gemlite": gemlite, "marlin": marlin}


def _need(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise NotHere(f"{name} is not installed")


def _need_gpu() -> None:
    if INTERPRETED:
        raise NotHere("it needs a GPU")
