"""From tensors to a launch: which kernel, what grid, and where the sums of shares meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from . import autotune, choose, device
from .checks import check_input
from .choose import Config
from .dense import dense
from .device import INTERPRETED, OPTIONS
from .gemm import add_shares, gemm
from .weights import Weights

LENGTH = 1024  # numbers that one program of add_shares adds


@device.on_device
def multiply(
    X: Tensor, weights: Weights, out: Tensor | None = None, *, deterministic: bool = False,
    kernel: str | Config | None = None, tune: bool = False,
) -> Tensor:  # fmt: skip
    """X [M, K] · Wᵀ → [M, N] in X's dtype (float16 or bfloat16, the dtype the weights were packed for).

    kernel: "gemv", "skinny", "gemm", "dense", or a Config; by default the table's for M rows, with `tune` the one this
    device ran fastest (measured once, kept on disk). Sums of shares are added in a fixed order in any case;
    deterministic=True also does without the atomic counter that joins them in one launch.
    Errors: ValueError for what does not fit, RuntimeError for a device that cannot.
    """
    device.check(X)
    check_input(X, weights, out)
    M, N = X.shape[0], weights.shape[0]
    out = torch.empty(M, N, dtype=X.dtype, device=X.device) if out is None else out
    if M == 0:
        return out
    if weights.order is not None:
        X = X.index_select(1, weights.order)
    return run(X, weights, out, wanted(X, weights, out, kernel, tune), deterministic)


def wanted(X: Tensor, weights: Weights, out: Tensor, kernel: str | Config | None, tune: bool) -> Config:
    """The configuration meant."""
    M, capability = X.shape[0], device.capability(X.device)
    if isinstance(kernel, Config):
        return kernel
    if kernel is not None:
        return device.fit(choose.named(kernel, M, capability, weights.kind), weights, X.device)
    if tune and not INTERPRETED:
        return autotune.fastest(X, weights, lambda config: run(X, weights, out, config, False))
    return device.fit(choose.choose(M, capability, weights.kind), weights, X.device)


def run(X: Tensor, weights: Weights, out: Tensor, config: Config, deterministic: bool) -> Tensor:
    """out [M, N] = X · Wᵀ with a configuration; X's columns as they lie in memory."""
    if config.kernel == "dense":
        return torch.matmul(X, dequantize(replace(weights, order=None)).T, out=out)
    device.check_room(config, weights, X.device)
    (M, (N, K)), blocks = (X.shape[0], weights.shape), weights.codes.shape[0]
    tiles_m, tiles_n = triton.cdiv(M, config.BM), triton.cdiv(N, config.BN)
    split = config.split or choose.choose_split(tiles_m * tiles_n, blocks, device.processors(X.device))
    across = next(width for width in (8, 4, 2, 1) if width <= tiles_m)
    groups = triton.cdiv(tiles_m, across)
    partial, count = out, out  # where nothing is split the kernel reads neither
    if split > 1:
        partial = torch.empty(split, M, N, dtype=torch.float32, device=X.device)
        count = device.counters(X.device, groups * across * tiles_n)
    gemm[across, tiles_n, groups * split](
        X, weights.codes, weights.params, table_of(weights), out, partial, count, M, N, K, X.stride(0),
        LATE=config.late, SWAP=config.swap, BM=config.BM, BN=config.BN, SPLIT=split, LAST=not deterministic,
        ACROSS=across, EVEN_N=N % config.BN == 0, EVEN_K=K % weights.block == 0, STAGES=config.stages,
        num_warps=config.warps, num_stages=config.stages, **layout_of(weights), **OPTIONS,
    )  # fmt: skip
    if split > 1 and deterministic:
        add_shares[(triton.cdiv(M * N, LENGTH),)](partial, out, M * N, SPLIT=split, LENGTH=LENGTH, **OPTIONS)
    return out


@device.on_device
def dequantize(weights: Weights) -> Tensor:
    """W_hat [N, K] in the weights' dtype, its columns in the order of X's."""
    device.check(weights.codes, weights.dtype)
    (N, K), BN = weights.shape, 32
    W_hat = torch.empty(N, K, dtype=weights.dtype, device=weights.codes.device)
    dense[weights.codes.shape[0], triton.cdiv(N, BN)](
        weights.codes, weights.params, table_of(weights), W_hat, N, K, BN=BN, EVEN_N=N % BN == 0,
        EVEN_K=K % weights.block == 0, **layout_of(weights), **OPTIONS,
    )  # fmt: skip
    return W_hat if weights.order is None else torch.empty_like(W_hat).index_copy_(1, weights.order, W_hat)


def layout_of(weights: Weights) -> dict[str, Any]:
    """The constants of a kernel that say how these weights are stored."""
    return {
        "BITS": weights.bits, "GROUP": weights.kind.group, "H": weights.part, "ZERO": weights.has_zero,
        "PAIRS": weights.pairs, "TABLE": weights.table, "ASM": not INTERPRETED,
    }  # fmt: skip


def table_of(weights: Weights) -> Tensor:
    """The codebook in the weights' dtype; where there is none, anything of that dtype stands for it."""
    return weights.params.view(weights.dtype) if weights.codebook is None else weights.codebook
