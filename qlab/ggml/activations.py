"""What llama.cpp makes of a linear's input before it multiplies: blocks of 8-bit codes beside quantized weights.

A GGUF file says nothing of this; it is how ggml's kernels compute (`vec_dot_type` in `ggml-cpu.c`). The numbers of an
input are rounded here and multiplied in floating point: the products are the same, but for the order of their sums.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def q8_0(X: Tensor) -> Tensor:
    """X [..., in] in blocks of 32: codes by 127 / max|x|, half to even, the scale stored in float16."""
    x = X.reshape(-1, 32)
    peak = x.abs().amax(1, keepdim=True)
    codes = torch.round(x * torch.where(peak > 0, torch.tensor(127.0) / peak, 0))
    return (codes * (peak / 127).half().float()).reshape(X.shape)


def q8_k(X: Tensor) -> Tensor:
    """X [..., in] in blocks of 256: the entry of largest magnitude takes the code −127; the scale is a float32."""
    x = X.reshape(-1, 256)
    extreme = x.gather(1, x.abs().argmax(1, keepdim=True))
    inverse = torch.where(extreme != 0, torch.tensor(-127.0) / extreme, 0)
    codes = torch.round(x * inverse).clamp(max=127)
    return (codes * torch.where(inverse != 0, 1 / inverse, 0)).reshape(X.shape)


_ROUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"), q8_0),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "TQ1_0", "TQ2_0"), q8_k),
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), q8_k),
    "F16": lambda X: X.half().float(),
    "BF16": lambda X: X.bfloat16().float(),
    "NVFP4": q8_0,
    "F32": lambda X: X,
}


def as_llama_cpp_rounds(X: Tensor, weight_type: str) -> Tensor:
    """The input X [..., in] of a linear whose weight has a tensor type, as llama.cpp rounds it; in X's dtype."""
    return _ROUNDED[weight_type](X.float()).to(X.dtype)
