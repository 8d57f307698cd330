"""From tensors to a launch: which kernel, what grid, and where sums of shares meet."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from . import choose
from .checks import OLDEST, check_input, check_shared, require
from .choose import Config, choose_split
from .dense import dense
from .gemm import add_shares, gemm
from .weights import Weights

INTERPRETED = not isinstance(gemm, triton.runtime.JITFunction)  # TRITON_INTERPRET was set when they were imported
OPTIONS = {} if INTERPRETED else {"enable_fp_fusion": False}  # what is to be fused says so: equal bits everywhere
LENGTH = 1024  # numbers that one program of add_shares adds


def multiply(
    X: Tensor, weights: Weights, out: Tensor | None = None, *, deterministic: bool = False,
    kernel: str | Config | None = None,
) -> Tensor:  # fmt: skip
    """X [M, K] · Wᵀ → [M, N] in X's dtype (float16 or bfloat16, the dtype the weights were packed for).

    kernel: "gemv", "skinny", "gemm", "dense", or a Config; by default the table's for M rows. Sums of shares are added
    in a fixed order in any case; deterministic=True also does without the atomic counter that joins them in one launch.
    Errors: ValueError for what does not fit, RuntimeError for a device that cannot.
    """
    check_device(X)
    check_input(X, weights, out)
    M, N = X.shape[0], weights.shape[0]
    out = torch.empty(M, N, dtype=X.dtype, device=X.device) if out is None else out
    if M == 0:
        return out
    if weights.order is not None:
        X = X.index_select(1, weights.order)
    config = named(kernel, M)
    if config.kernel == "dense":
        return torch.matmul(X, dequantize(replace(weights, order=None)).T, out=out)
    return run(X, weights, out, config, deterministic)


def dequantize(weights: Weights) -> Tensor:
    """W_hat [N, K] in the weights' dtype, its columns in the order of X."""
    check_device(weights.codes)
    N, K = weights.shape
    W_hat = torch.empty(N, K, dtype=weights.dtype, device=weights.codes.device)
    BN = 32
    grid = (weights.codes.shape[0], triton.cdiv(N, BN))
    dense[grid](
        weights.codes, weights.params, table_of(weights), W_hat, N, K, BN=BN,
        EVEN_N=N % BN == 0, EVEN_K=K % weights.block == 0, **layout_of(weights), **OPTIONS,
    )  # fmt: skip
    return W_hat if weights.order is None else torch.empty_like(W_hat).index_copy_(1, weights.order, W_hat)


def run(X: Tensor, weights: Weights, out: Tensor, config: Config, deterministic: bool) -> Tensor:
    """The fused kernel with a configuration."""
    (M, (N, K)), blocks = (X.shape[0], weights.shape), weights.codes.shape[0]
    tiles_m, tiles_n = triton.cdiv(M, config.BM), triton.cdiv(N, config.BN)
    split = config.split or choose_split(tiles_m * tiles_n, blocks, processors(X.device))
    check_shared(shared_memory(config, weights), shared_limit(X.device), config.kernel)
    across = min(tiles_m, 8)
    grid = (across, tiles_n, triton.cdiv(tiles_m, across) * split)
    partial = torch.empty(split, M, N, dtype=torch.float32, device=X.device) if split > 1 else out
    count = counters(X.device, across * grid[2] // split * tiles_n) if split > 1 and not deterministic else out
    gemm[grid](
        X, weights.codes, weights.params, table_of(weights), out, partial, count, M, N, K, X.stride(0),
        SWAP=config.swap, BM=config.BM, BN=config.BN, SPLIT=split, LAST=not deterministic, ACROSS=across,
        EVEN_N=N % config.BN == 0, EVEN_K=K % weights.block == 0, STAGES=config.stages,
        **pipeline(config), **layout_of(weights), **OPTIONS,
    )  # fmt: skip
    if split > 1 and deterministic:
        add_shares[(triton.cdiv(M * N, LENGTH),)](partial, out, M * N, SPLIT=split, LENGTH=LENGTH, **OPTIONS)
    return out


def layout_of(weights: Weights) -> dict[str, Any]:
    """The constants of a kernel that say how these weights are stored."""
    group = 0 if weights.group == weights.shape[1] else weights.group
    table = None if weights.codebook is None or INTERPRETED else table_bits(weights)
    if weights.codebook is not None and INTERPRETED:
        table = ()
    return {
        "BITS": weights.bits, "GROUP": group, "H": weights.part, "ZERO": weights.has_zero, "PAIRS": weights.pairs,
        "TABLE": table, "ASM": not INTERPRETED,
    }  # fmt: skip


def table_of(weights: Weights) -> Tensor:
    """The codebook in the weights' dtype; where there is none, anything of that dtype stands for it."""
    if weights.codebook is None:
        return weights.params.view(weights.dtype)
    return weights.codebook.to(weights.dtype)


def table_bits(weights: Weights) -> tuple[int, ...]:
    """The codebook's 16 numbers as the bits of their dtype: constants of the kernel that is compiled for it."""
    assert weights.codebook is not None
    return tuple(int(bits) & 0xFFFF for bits in weights.codebook.to(weights.dtype).view(torch.int16).tolist())


def named(kernel: str | Config | None, M: int) -> Config:
    """The configuration meant."""
    if isinstance(kernel, Config):
        return kernel
    if kernel is None:
        return choose.choose(M)
    require(kernel in choose.NAMES, f"there is no kernel {kernel!r}: give one of {', '.join(choose.NAMES)}")
    return choose.NAMES[kernel]


def pipeline(config: Config) -> dict[str, int]:
    """What the compiler is told, and the interpreter is not asked."""
    return {"num_warps": config.warps, "num_stages": config.stages}


def check_device(tensor: Tensor) -> None:
    """RuntimeError where Triton cannot run: no GPU, or one from before Ampere."""
    if INTERPRETED:
        if tensor.dtype == torch.bfloat16:
            raise RuntimeError("Triton's interpreter multiplies bfloat16 wrongly: give float16, or run on a GPU")
        return
    if tensor.device.type != "cuda":
        raise RuntimeError(f"the tensors are on {tensor.device}: move them to a CUDA GPU, or set TRITON_INTERPRET=1 "
                           "before qlab.kernels.triton is imported")  # fmt: skip
    found = torch.cuda.get_device_capability(tensor.device)
    if found < OLDEST:
        raise RuntimeError(f"{torch.cuda.get_device_name(tensor.device)} has compute capability {found[0]}.{found[1]}: "
                           f"the kernels need {OLDEST[0]}.{OLDEST[1]} (Ampere) or newer")  # fmt: skip


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; 2 stand for the interpreter, so that shares are tried there too."""
    return 2 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block may have."""
    if INTERPRETED:
        return max(choose.SHARED.values())
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)


def shared_memory(config: Config, weights: Weights) -> int:
    """Bytes of shared memory of a configuration: its stages hold a block of W and of X each."""
    words = weights.codes[0, :, 0].nbytes * config.BN
    return config.stages * (words + 2 * config.BM * weights.block)


_COUNTERS: dict[tuple[torch.device, int], Tensor] = {}


def counters(device: torch.device, wanted: int) -> Tensor:
    """At least so many zeros for the running stream; kernels leave them at zero.

    A captured graph gets its own, which it clears at each replay: it may run beside the stream it was captured on.
    """
    if INTERPRETED:
        return torch.zeros(wanted, dtype=torch.int32)
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(wanted, dtype=torch.int32, device=device)
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    if key not in _COUNTERS or len(_COUNTERS[key]) < wanted:
        _COUNTERS[key] = torch.zeros(max(wanted, 4096), dtype=torch.int32, device=device)
    return _COUNTERS[key]
