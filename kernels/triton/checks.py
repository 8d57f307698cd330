"""What the kernels refuse, before anything is launched: one line that names the culprit and the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .weights import Weights

DTYPES = (torch.float16, torch.bfloat16)


def require(holds: bool, message: str) -> None:
    """ValueError with the message unless it holds."""
    if not holds:
        raise ValueError(message)


def check_packing(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, codebook: Tensor | None, order: Tensor | None,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    """What `pack` is given."""
    require(bits in range(1, 9), f"bits is {bits}: the kernels know 1 to 8")
    require(codes.dim() == 2 and codes.dtype == torch.uint8 and codes.numel() > 0,
            f"codes are {codes.dtype} {list(codes.shape)}: give uint8 [N, K], not empty")  # fmt: skip
    require(dtype in DTYPES, f"dtype is {dtype}: give float16 or bfloat16, pack(…, dtype=torch.float16)")
    N, K = codes.shape
    require(int(codes.max()) < 2**bits, f"a code is {int(codes.max())}: {bits} bits end at {2**bits - 1}")
    require(scale.dim() == 2 and scale.shape[0] == N and scale.shape[1] > 0,
            f"scale is {list(scale.shape)}: give [N, groups] with N = {N}")  # fmt: skip
    groups = scale.shape[1]
    require(K % groups == 0, f"{groups} groups do not divide K = {K}")
    check_group(K // groups, K)
    require(zero is None or zero.shape == scale.shape,
            f"zero is {_shape(zero)}, scale is {_shape(scale)}: give both [N, groups]")  # fmt: skip
    require(codebook is None or (bits == 4 and codebook.shape == (16,) and zero is None),
            "a codebook has 16 entries, 4 bits and no zeros")  # fmt: skip
    _check_order(order, K)
    for name, tensor in (("scale", scale), ("zero", zero), ("codebook", codebook), ("order", order)):
        require(tensor is None or tensor.device == codes.device,
                f"{name} is on another device than codes, which are on {codes.device}: move one")  # fmt: skip
    for name, tensor in (("scale", scale), ("zero", zero), ("codebook", codebook)):
        require(tensor is None or bool(tensor.to(dtype).isfinite().all()),
                f"{name} is not finite in {dtype}: scale the weights, or pack(…, dtype=torch.bfloat16)")  # fmt: skip


def _shape(tensor: Tensor | None) -> list[int] | None:
    return None if tensor is None else list(tensor.shape)


def check_group(group: int, K: int) -> None:
    """Groups are powers of two from 16, the columns of a tensor core's operand, or a whole row."""
    power = group >= 16 and group & group - 1 == 0
    require(K % 32 == 0, f"K = {K} is no multiple of 32: pad the weight's columns")
    require(power or group == K, f"group {group} with K = {K}: give a power of two of at least 16 that divides K, or K")


def _check_order(order: Tensor | None, K: int) -> None:
    if order is None:
        return
    require(order.shape == (K,) and order.dtype == torch.int64,
            f"order is {order.dtype} {list(order.shape)}: give int64 [K] with K = {K}")  # fmt: skip
    expected = torch.arange(K, device=order.device, dtype=order.dtype)
    require(bool((order.sort().values == expected).all()), f"order is no permutation of 0 … {K - 1}")


def check_input(X: Tensor, weights: Weights, out: Tensor | None) -> None:
    """What `multiply` is given."""
    N, K = weights.shape
    require(X.dim() == 2 and X.shape[1] == K, f"X is {list(X.shape)}: give [M, K] with K = {K}")
    require(X.dtype == weights.dtype, f"X is {X.dtype}, the weights were packed for {weights.dtype}: convert X")
    require(X.device == weights.codes.device, f"X is on {X.device}, weights on {weights.codes.device}: move one")
    require(X.stride(1) == 1, f"X has stride {X.stride(1)} along K: call X.contiguous()")
    check_aligned("X", X)
    require(X.stride(0) % 8 == 0 or X.shape[0] == 1,
            f"rows of X are {X.stride(0)} elements apart, no multiple of 8: call X.contiguous()")  # fmt: skip
    if out is not None:
        wanted, found = f"{X.dtype} {[X.shape[0], N]} on {X.device}", f"{out.dtype} {list(out.shape)} on {out.device}"
        require(found == wanted and out.is_contiguous(), f"out is {found}: give contiguous {wanted}")
        check_aligned("out", out)


def check_aligned(name: str, tensor: Tensor) -> None:
    """Sixteen bytes are copied at once."""
    require(tensor.data_ptr() % 16 == 0, f"{name} does not start at a multiple of 16 bytes: call {name}.clone()")
