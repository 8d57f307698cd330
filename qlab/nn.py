"""QLinear: a linear layer that holds a QTensor in place of its weight."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from qlab.qtensor import QTensor, check_finite
from qlab.ranges import round_to_nearest
from qlab.spec import QuantSpec


def fake_quantize(X: Tensor, spec: QuantSpec) -> Tensor:
    """`X [..., in]` rounded to `spec` and back: the numbers a quantized input would have, simulated in floating point.

    A spec per row has one scale for each token.
    """
    rows = X.reshape(-1, X.shape[-1]).float()
    check_finite(rows, "activations")
    return round_to_nearest(rows, spec).dequantize().reshape(X.shape).to(X.dtype)


class QLinear(nn.Module):
    """`y = x̂ · W_hatᵀ + b`: the weight is dequantized at every call, the input rounded to `input_spec`.

    The reference path: plain torch, one byte a code in memory whatever the bits. Input quantization is simulated in
    floating point; its numbers are those of the integer product to float32 rounding.
    """

    def __init__(self, qtensor: QTensor, bias: Tensor | None = None, input_spec: QuantSpec | None = None):
        super().__init__()
        self.qtensor = qtensor
        self.input_spec = input_spec
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.qtensor.shape[0]

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return self.qtensor.shape[1]

    def W_hat(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dequantized weight [out, in]."""
        return self.qtensor.dequantize(dtype)

    def forward(self, X: Tensor) -> Tensor:
        """`X [..., in]` → [..., out] in the dtype of X."""
        X = X if self.input_spec is None else fake_quantize(X, self.input_spec)
        bias = None if self.bias is None else self.bias.to(X.dtype)
        return nn.functional.linear(X, self.W_hat(X.dtype), bias)

    def extra_repr(self) -> str:
        """The spec, as `print(model)` shows it."""
        inputs = f", input={self.input_spec}" if self.input_spec else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, weight={self.qtensor.spec}{inputs}"


def packed_bytes(model: nn.Module) -> int:
    """Bytes of a model as a file would hold it: QTensors packed, every other parameter (tied ones once) at 16 bits."""
    quantized = sum(m.qtensor.nbytes for m in model.modules() if isinstance(m, QLinear))
    return quantized + 2 * sum(p.numel() for p in model.parameters())


def stored_as(model: nn.Module) -> dict[str, Any]:
    """Bits per weight of a model's linears, and in "stored_as" the specs of those that are QLinears."""
    found = [m.qtensor for m in model.modules() if isinstance(m, QLinear)]
    if not found:
        return {"bits_per_weight": 16.0}
    counts = Counter(str(Q.spec) for Q in found)
    told = ", ".join(f"{n} linears {spec}" for spec, n in counts.most_common())
    return {
        "bits_per_weight": sum(Q.bits_stored for Q in found) / sum(Q.codes.numel() for Q in found),
        "stored_as": told,
    }
