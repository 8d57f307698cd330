"""Layers that hold weights as a file does: quantized, as codes or packed for the kernels of CPU or GPU, or floats."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from qlab.errors import QlabError
from qlab.gpu import TritonWeights, pack_for_gpu, why_not_on
from qlab.packed import Packed
from qlab.qtensor import QTensor, check_finite
from qlab.ranges import round_to_nearest
from qlab.spec import QuantSpec
from qlab.tiles import Tiled, tile

INPUTS = ("float", "int8", "llama.cpp")
QUANTIZED = (QTensor, Tiled, TritonWeights)
AT_ONCE = 1 << 22
"""Weights that are dequantized at once for a product in floating point: 16 MB of them."""


def fake_quantize(X: Tensor, spec: QuantSpec) -> Tensor:
    """`X [..., in]` rounded to `spec` and back: the numbers a quantized input would have, simulated in floating point.

    A spec per row has one scale for each token.
    """
    rows = X.reshape(-1, X.shape[-1]).float()
    check_finite(rows, "activations")
    return round_to_nearest(rows, spec).dequantize().reshape(X.shape).to(X.dtype)


class QLinear(nn.Module):
    """`y = x̂ · W_hatᵀ + b`, the input rounded to `input_spec`.

    weight: a QTensor, one byte a code whatever the bits, dequantized at every call: the reference. Or Tiled, packed
    (`pack`): then `inputs` says how the CPU multiplies. "float": in float32, a few rows dequantized at a time; "int8":
    by the integer kernels, inputs rounded to 8 bits by block; "llama.cpp": the same with scales as that program stores
    them. The reference simulates input quantization in floating point; its numbers are those of the integer product to
    float32 rounding.
    On a CUDA device codes are packed for the Triton kernels (`pack_on_gpu`), at the latest when the first input comes;
    what the kernels do not know torch dequantizes, and a warning says why.
    """

    def __init__(
        self,
        weight: QTensor | Tiled | TritonWeights,
        bias: Tensor | None = None,
        input_spec: QuantSpec | None = None,
        inputs: str = "float",
    ):
        super().__init__()
        if inputs not in INPUTS:
            raise QlabError(f"inputs {inputs!r}: choose one of {', '.join(INPUTS)}")
        self.weight_ = weight
        self.inputs = inputs
        self._left_to_torch: dict[torch.dtype, str] = {}  # dtypes of inputs, and why
        self.input_spec = input_spec
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def qtensor(self) -> QTensor:
        """The codes; of a packed weight they are unpacked at every call."""
        return self.weight_ if isinstance(self.weight_, QTensor) else self.weight_.qtensor()

    @property
    def spec(self) -> QuantSpec:
        """How the weight is stored."""
        return self.weight_.spec

    @property
    def out_features(self) -> int:
        """Rows of the weight."""
        return self.weight_.shape[0]

    @property
    def in_features(self) -> int:
        """Columns of the weight."""
        return self.weight_.shape[1]

    @property
    def bits_stored(self) -> int:
        """Bits of the weight as a file holds it."""
        return self.weight_.bits_stored

    @property
    def path(self) -> str:
        """What multiplies: "cpu avx512" for a kernel and its instruction set, "cpu float", "triton", or "torch"."""
        if not isinstance(self.weight_, Tiled):
            return "triton" if isinstance(self.weight_, TritonWeights) else "torch"
        return "cpu float" if self.inputs == "float" else f"cpu {self.weight_.multiplies_on}"

    def W_hat(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dequantized weight [out, in]."""
        W = self.weight_
        return W.dequantize(dtype) if isinstance(W, QTensor) else W.dequantize().to(dtype)

    def forward(self, X: Tensor) -> Tensor:
        """`X [..., in]` → [..., out] in the dtype of X."""
        _check_input(X, self.in_features)
        X = X if self.input_spec is None else fake_quantize(X, self.input_spec)
        if isinstance(self.weight_, Tiled):
            return _product(self.weight_, X, self.inputs, self.bias)
        bias = None if self.bias is None else self.bias.to(X.dtype)
        if X.is_cuda and isinstance(self.weight_, QTensor) and X.dtype not in self._left_to_torch:
            self._meet_gpu(X.device, X.dtype)
        if isinstance(self.weight_, TritonWeights):
            Y = self.weight_.multiply(X.reshape(-1, X.shape[-1])).reshape(*X.shape[:-1], self.out_features)
            return Y if bias is None else Y + bias
        return nn.functional.linear(X, self.W_hat(X.dtype), bias)

    @torch.compiler.disable
    def _meet_gpu(self, device: torch.device, dtype: torch.dtype) -> None:
        """Pack for the first input; a warning where torch must do it."""
        if reason := self.pack_on_gpu(device, dtype):
            warnings.warn(reason, RuntimeWarning, stacklevel=2)

    def pack_on_gpu(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Codes become the GPU kernels' weights for inputs of `dtype`; where they stay codes, on that device, why."""
        reason = why_not_on(device)
        if reason is not None:
            reason = f"{reason}; torch multiplies this layer"
        assert isinstance(self.weight_, QTensor)
        self.weight_ = self.weight_.to(device)
        if reason is None:
            try:
                self.weight_ = pack_for_gpu(self.weight_, dtype)
            except QlabError as error:
                reason = str(error)
        if reason is not None:
            self._left_to_torch[dtype] = reason
        return reason

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QLinear:
        """`model.to(device)` moves the codes too; their dtypes are the format's, and stay."""
        super()._apply(fn, recurse)
        if not isinstance(self.weight_, Tiled):
            self.weight_ = self.weight_.to(fn(torch.empty(0)).device)
        return self

    def extra_repr(self) -> str:
        """The spec, as `print(model)` shows it."""
        inputs = f", input={self.input_spec}" if self.input_spec else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, weight={self.spec}{inputs}"


class FloatLinear(nn.Module):
    """`y = x · Wᵀ + b`: W packed for the CPU kernels, not quantized, in the bits of its file; sums in float32."""

    def __init__(self, weight: Packed, bias: Tensor | None = None):
        super().__init__()
        self.weight_ = weight
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    @property
    def path(self) -> str:
        """What multiplies: a kernel's instruction set, and the floats that it reads."""
        return f"cpu {self.weight_.multiplies_on} ({self.weight_.format})"

    def forward(self, X: Tensor) -> Tensor:
        """`X [..., in]` → [..., out] in the dtype of X."""
        _check_input(X, self.weight_.shape[1])
        return _product(self.weight_, X, "float", self.bias)

    def extra_repr(self) -> str:
        """Shape and format."""
        return f"{self.weight_.shape[1]}, {self.weight_.shape[0]}, weight={self.weight_.format}"


class QEmbedding(nn.Module):
    """Rows of a packed matrix by token id, times a factor (gemma's); a tied head is a linear of the same matrix."""

    def __init__(self, weight: Packed, dtype: torch.dtype = torch.float32, factor: float = 1.0):
        super().__init__()
        self.weight_, self.dtype, self.factor = weight, dtype, factor

    def forward(self, ids: Tensor) -> Tensor:
        """`ids [...]` → [..., columns]."""
        rows = self.weight_.rows(ids.reshape(-1)).reshape(*ids.shape, self.weight_.shape[1]).to(self.dtype)
        return rows if self.factor == 1 else rows * torch.tensor(self.factor, dtype=self.dtype)

    def extra_repr(self) -> str:
        """Shape and spec."""
        stored = self.weight_.spec if isinstance(self.weight_, Tiled) else self.weight_.format
        return f"{self.weight_.shape[0]}, {self.weight_.shape[1]}, weight={stored}"


def _check_input(X: Tensor, columns: int) -> None:
    """Integers would come back as integers, cut off."""
    if not X.is_floating_point() or X.shape[-1:] != (columns,):
        dtype = str(X.dtype).removeprefix("torch.")
        raise QlabError(f"the input is {dtype} {list(X.shape)}: this layer takes floats [..., {columns}]")


def _product(W: Packed, X: Tensor, inputs: str, bias: Tensor | None) -> Tensor:
    """X [..., in] · W_hatᵀ + b in the dtype of X."""
    if X.device.type != "cpu":
        raise QlabError(f"this layer is packed for the CPU, its input is on {X.device}: load the model unpacked")
    Y = multiply(W, X.reshape(-1, W.shape[1]).float(), inputs).reshape(*X.shape[:-1], W.shape[0]).to(X.dtype)
    return Y if bias is None else Y + bias.to(X.dtype)


def multiply(W: Packed, X: Tensor, inputs: str) -> Tensor:
    """X [tokens, in] · W_hatᵀ, float32 [tokens, out], with the inputs as `QLinear` names them."""
    if inputs != "float" or W.is_float:
        X = X if W.order is None else X[:, W.order]
        half = inputs == "llama.cpp"
        return cast(Tensor, torch.ops.qlab.multiply(X, *W.arrays, W.format, W.group, W.shape[0], half))
    rows, columns = W.shape
    step = max(16, AT_ONCE // columns // 16 * 16)
    parts_ = (W.dequantize(at, min(step, rows - at)) for at in range(0, rows, step))
    return torch.cat([nn.functional.linear(X, part) for part in parts_], 1)


@torch.library.custom_op("qlab::multiply", mutates_args=())
def _multiply(
    X: Tensor, codes: Tensor, scale: Tensor | None, offset: Tensor | None, sub: Tensor | None, format: str, group: int,
    rows: int, half: bool
) -> Tensor:  # fmt: skip
    from qlab.kernels import cpu

    Y = torch.empty(len(X), rows)
    parts = (None if t is None else t.numpy() for t in (codes, scale, offset, sub))
    x = X.detach().contiguous().numpy()
    cpu.multiply(format, *parts, group, rows, x, Y.numpy(), half, torch.get_num_threads())
    return Y


@_multiply.register_fake
def _(X, codes, scale, offset, sub, format, group, rows, half):  # type: ignore[no-untyped-def]
    return X.new_empty(len(X), rows)


def pack(model: nn.Module, inputs: str = "float") -> dict[str, str]:
    """Pack the QTensors of a model's QLinears for the CPU kernels, in place; name → why, for those that have none."""
    left: dict[str, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, QLinear) and isinstance(module.weight_, QTensor):
            try:
                module.weight_ = tile(module.weight_)
                module.inputs = inputs
            except QlabError as error:
                left[name] = str(error)
    return left


def pack_on_gpu(model: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Pack the QTensors of a model's QLinears for the GPU kernels, in place; name → why, for those that have none.

    Without it each is packed when its first input comes, which neither a captured graph nor torch.compile may see.
    """
    found = {n: m for n, m in model.named_modules() if isinstance(m, QLinear) and isinstance(m.weight_, QTensor)}
    return {name: reason for name, m in found.items() if (reason := m.pack_on_gpu(device, dtype))}


def paths(model: nn.Module) -> str:
    """Which way a model's linears are multiplied: "29 linears by cpu avx512, 1 by torch (float32)"."""
    found: Counter[str] = Counter()
    for module in model.modules():
        if isinstance(module, QLinear | FloatLinear):
            found[module.path] += 1
        elif isinstance(module, nn.Linear):
            found[f"torch ({str(module.weight.dtype).removeprefix('torch.')})"] += 1
    return ", ".join(f"{n} {'linears ' if i == 0 else ''}by {path}" for i, (path, n) in enumerate(found.most_common()))


def packed_bytes(model: nn.Module) -> int:
    """Bytes of a model as a file would hold it: QTensors packed, every other number (tied ones once) at 16 bits."""
    held = {id(m.weight_): m.weight_ for m in model.modules() if isinstance(m, QLinear | FloatLinear | QEmbedding)}
    quantized = sum(-(-W.bits_stored // 8) for W in held.values() if isinstance(W, QUANTIZED))
    floats = sum(math.prod(W.shape) for W in held.values() if not isinstance(W, QUANTIZED))
    return quantized + 2 * (floats + sum(p.numel() for p in model.parameters()))


def stored_as(model: nn.Module) -> dict[str, Any]:
    """Bits per weight of a model's linears, and in "stored_as" the specs of those that are QLinears."""
    found = [m for m in model.modules() if isinstance(m, QLinear)]
    if not found:
        return {"bits_per_weight": 16.0}
    counts = Counter(str(m.spec) for m in found)
    told = ", ".join(f"{n} linears {spec}" for spec, n in counts.most_common())
    weights = sum(m.in_features * m.out_features for m in found)
    return {"bits_per_weight": sum(m.bits_stored for m in found) / weights, "stored_as": told}
