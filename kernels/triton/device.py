"""The device a launch meets: whether it can, how much it has, and the counters it keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from .choose import Config
from .gemm import gemm
from .weights import Weights

INTERPRETED = not isinstance(gemm, triton.runtime.JITFunction)  # TRITON_INTERPRET was set when they were imported
OPTIONS = {} if INTERPRETED else {"enable_fp_fusion": False}  # what is to be fused says so: equal bits everywhere
OLDEST = (8, 0)  # bfloat16 on tensor cores and cp.async came with Ampere
SPARE = 512  # bytes for what the compiler adds
SHARED = {80: 166912, 90: 232448}  # bytes of shared memory that a block may have (CUDA programming guide)


def check(tensor: Tensor, dtype: torch.dtype | None = None) -> None:
    """RuntimeError where Triton cannot run: no GPU, or one from before Ampere; or bfloat16 in the interpreter."""
    if INTERPRETED:
        if (dtype or tensor.dtype) == torch.bfloat16:
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
def capability(device: torch.device) -> int:
    """80, 89, 90 …; the interpreter passes for Hopper."""
    if INTERPRETED:
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors; 2 stand for the interpreter, so that shares are tried there too."""
    return 2 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that a block may have."""
    return SHARED[90] if INTERPRETED else int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)


def shared_memory(config: Config, weights: Weights, capability: int) -> int:
    """Bytes of shared memory that a configuration may take: a block of W and one of X for each stage but the last.

    That one's W goes straight to registers, and before Hopper its X does too. A part of W as floats may pass through
    shared memory on its way to another layout.
    """
    _, tiles, _, H = weights.codes.shape
    W, X, part = 2 * config.BN * tiles * H, 2 * config.BM * weights.block, 2 * config.BN * H
    return (config.stages - 1) * (W + X) + (X if capability >= 90 else 0) + part + SPARE


def fits(config: Config, weights: Weights, device: torch.device) -> bool:
    """Whether the device has room for it."""
    return config.kernel == "dense" or shared_memory(config, weights, capability(device)) <= shared_limit(device)


def fit(config: Config, weights: Weights, device: torch.device) -> Config:
    """The table's configuration for a device with less room: fewer stages, then fewer rows in a tile."""
    while not fits(config, weights, device) and (config.stages > 2 or config.BM > 8):
        smaller = {"stages": config.stages - 1} if config.stages > 2 else {"BM": config.BM // 2}
        config = replace(config, **smaller)
    return config


def check_room(config: Config, weights: Weights, device: torch.device) -> None:
    """ValueError where a configuration needs more shared memory than a block may have."""
    needed, limit = shared_memory(config, weights, capability(device)), shared_limit(device)
    if needed > limit:
        raise ValueError(f"{config.kernel} with tiles of {config.BM} × {config.BN} takes up to {needed} bytes of "
                         f"shared memory, the device has {limit} a block: give smaller tiles, or 'dense'")  # fmt: skip


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run it on the device of its first tensor or Weights: Triton launches on the current one."""

    @functools.wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        tensors = (getattr(one, "codes", one) for one in (*given, *named.values()))
        device = next((tensor.device for tensor in tensors if isinstance(tensor, Tensor)), None)
        if device is None or device.type != "cuda":
            return function(*given, **named)
        with torch.cuda.device(device):
            return function(*given, **named)

    return run


_COUNTERS: dict[tuple[torch.device, int], Tensor] = {}
_FOR_GRAPHS: dict[torch.device, Tensor] = {}


def counters(device: torch.device, wanted: int) -> Tensor:
    """At least so many zeros for the running stream; kernels leave them at zero.

    A product in a captured graph gets its own, since the graph may run beside the stream it was captured on. They are
    cut from a stock that the first call outside a graph lays in; without one the graph clears some at each replay.
    """
    if INTERPRETED:
        return torch.zeros(wanted, dtype=torch.int32, device=device)
    if torch.cuda.is_current_stream_capturing():
        stock = _FOR_GRAPHS.get(device)
        if stock is None or len(stock) < wanted:
            return torch.zeros(wanted, dtype=torch.int32, device=device)
        _FOR_GRAPHS[device] = stock[wanted:]
        return stock[:wanted]
    if device not in _FOR_GRAPHS:
        _FOR_GRAPHS[device] = torch.zeros(1 << 18, dtype=torch.int32, device=device)
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    if key not in _COUNTERS or len(_COUNTERS[key]) < wanted:
        _COUNTERS[key] = torch.zeros(max(wanted, 4096), dtype=torch.int32, device=device)
    return _COUNTERS[key]
