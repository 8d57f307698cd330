"""QTensors packed for the GPU kernels (`kernels/triton`), and why a tensor or a device has none.

The kernels know `scale · (code − zero)` and `scale · codebook[code]` of 16 entries, in float16 or bfloat16. An integer
grid is the first, whatever its levels begin with: a minimum becomes a zero that is no integer. Scales and zeros are
rounded to the dtype of the inputs, which every product on the GPU is of anyway.
"""

from __future__ import annotations

import importlib
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.qtensor import QTensor, dense
from qlab.spec import DTYPES as STORED
from qlab.spec import QuantSpec

DTYPES = (torch.float16, torch.bfloat16)
"""Of inputs that the kernels multiply."""
OLDEST = (8, 0)
"""Compute capability: Ampere."""


@dataclass(frozen=True, eq=False)
class TritonWeights:
    """A quantized matrix [out, in] as the GPU kernels read it; `weights` is a `kernels.triton.Weights`.

    spec, bits_stored: of the QTensor that it was packed from.
    """

    weights: Any
    spec: QuantSpec
    bits_stored: int

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.weights.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the inputs that it multiplies."""
        return self.weights.dtype

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.weights.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes in the device's memory."""
        return self.weights.nbytes

    def to(self, device: torch.device) -> TritonWeights:
        """The same on another device."""
        return self if device == self.device else replace(self, weights=self.weights.to(device))

    def multiply(self, X: Tensor) -> Tensor:
        """X [tokens, in] · W_hatᵀ, [tokens, out] in the dtype of X, which is that of the weights."""
        W = self.weights
        if (X.dtype, X.device) != (self.dtype, self.device):
            raise QlabError(f"weights are packed for {self.dtype} inputs on {self.device}, the input is {X.dtype} on "
                            f"{X.device}: convert the input, or load the model again with that dtype")  # fmt: skip
        parts = (W.codes, W.params, W.codebook, W.order)
        # torch.compile's own CUDA graphs suffer no tensor that outlives a call, such as the kernels' counters
        counted = not torch.compiler.is_compiling()
        return torch.ops.qlab.multiply_gpu(X, *parts, W.table, W.bits, W.shape[1], W.group, W.has_zero, counted)

    def dequantize(self) -> Tensor:
        """W_hat [out, in] in `dtype`, as the kernels see it."""
        return kernels().dequantize(self.weights)

    def qtensor(self) -> QTensor:
        """The QTensor that was packed; QlabError where packing rounded its scales."""
        spec = self.spec
        if spec.blocking != "row":
            raise QlabError(f"scales of {spec} were laid out by rows for the GPU: load the model unpacked")
        if spec.scale is not None or spec.rule in ("offset", "none") or self.dtype != STORED[spec.dtype]:
            raise QlabError(f"scales of {spec} were rounded to {self.dtype} for the GPU: load the model unpacked")
        codes, scale, zero = kernels().unpack(self.weights)
        back = None if self.weights.order is None else self.weights.order.argsort()
        index = None if back is None else (back // self.weights.group).to(torch.int32)
        return QTensor(codes, scale, spec, zero if spec.has_zero else None, None, index)


def kernels() -> Any:
    """`qlab.kernels.triton`, imported when it is first needed: it takes a second, and machines without GPU do not."""
    return importlib.import_module("qlab.kernels.triton")


def why_not_on(device: torch.device) -> str | None:
    """What keeps the kernels from a device, and what to do; None if nothing does."""
    if device.type != "cuda":
        return f"the GPU kernels run on CUDA devices, this is {device}"
    if not torch.cuda.is_available():
        return "there is no CUDA GPU here"
    if torch.version.cuda is None:
        return "this PyTorch is built for another maker's GPUs: the kernels hold NVIDIA's instructions"
    if (found := torch.cuda.get_device_capability(device)) < OLDEST:
        name, wanted = torch.cuda.get_device_name(device), ".".join(map(str, OLDEST))
        return f"{name} has compute capability {found[0]}.{found[1]}: the GPU kernels need {wanted} (Ampere) or newer"
    triton = kernels()
    return None if triton.available else str(triton.missing)


def check_load(dtype: torch.dtype, activations: str, packed: bool) -> None:
    """Refuse a model that a GPU could not run, before any of it is read."""
    if not torch.cuda.is_available():
        raise QlabError("there is no CUDA GPU here: use the device cpu")
    if packed and dtype not in DTYPES:
        raise QlabError(f"packed weights on a GPU multiply float16 or bfloat16, not {dtype}: load with one of them")
    if packed and activations != "float":
        raise QlabError(f"activations {activations} are those of the CPU kernels: on a GPU use float")


def warn_of(name: str, left: dict[str, str]) -> None:
    """One warning for each reason why linears of the model `name` are left to torch."""
    for reason, count in Counter(left.values()).items():
        warnings.warn(f"{name}: {count} linears are not packed: {reason}", RuntimeWarning, 3)


def pack_for_gpu(Q: QTensor, dtype: torch.dtype = torch.float16) -> TritonWeights:
    """Q for the kernels, on the device where its codes are; QlabError, saying why, where no kernel reads it."""
    if problem := _problem(Q, dtype):
        raise QlabError(f"{Q.spec} has no GPU kernel: {problem}; torch multiplies this layer")
    rows, columns = Q.shape
    scale = _per_row(Q.scale, rows, columns // _group(Q))
    assert scale is not None
    zero, codebook, order = _zero(Q, scale), _codebook(Q), None
    if Q.group_index is not None:
        order = Q.group_index.long().argsort(stable=True)
    try:
        weights = kernels().pack(
            Q.codes, scale.to(dtype), None if zero is None else zero.to(dtype), bits=Q.spec.bits,
            codebook=None if codebook is None else codebook.to(dtype), order=order, dtype=dtype,
        )  # fmt: skip
    except ValueError as error:
        raise QlabError(f"{Q.spec} has no GPU kernel: {error}; torch multiplies this layer") from error
    return TritonWeights(weights, Q.spec, Q.bits_stored)


def _problem(Q: QTensor, dtype: torch.dtype) -> str | None:
    """What keeps the kernels from reading Q; `pack` itself says what else does."""
    spec, columns, size = Q.spec, Q.shape[1], _group(Q)
    if dtype not in DTYPES:
        return f"inputs are {str(dtype).removeprefix('torch.')}, the kernels multiply float16 and bfloat16"
    if not _even(spec) and len(spec.grid.levels) != 16:
        return f"the {len(spec.grid.levels)} levels of {spec.grid.name} are neither evenly spaced nor 16"
    if Q.scale is None:
        return "it has no scale"
    if columns % size:
        return f"groups of {size} do not divide rows of {columns}"
    if Q.group_index is not None:
        index = Q.group_index.long()
        wanted = torch.arange(columns, device=index.device) // size
        if not torch.equal(index.sort().values, wanted):
            return "its groups are not of one size"
    scale = dense(Q.scale)
    assert scale is not None
    if bool(((scale != 0) & (scale.abs() < torch.finfo(dtype).tiny)).any()):
        return f"a scale is below the numbers of {str(dtype).removeprefix('torch.')}"
    if Q.offset is not None and bool((scale == 0).any()):
        return "a group with a minimum has scale 0"
    return None


def _group(Q: QTensor) -> int:
    """Columns that share a scale; a scale for the whole matrix stands for one of each row."""
    spec, columns = Q.spec, Q.shape[1]
    return columns if spec.blocking == "tensor" else spec.group_in(columns)


def _even(spec: QuantSpec) -> bool:
    """Whether levels follow each other in steps of 1: whole numbers, or ∓½."""
    levels = spec.grid.levels
    return all(b - a == 1 for a, b in pairwise(levels))


def _per_row(part: Tensor | QTensor | None, rows: int, groups: int) -> Tensor | None:
    """[rows, groups] float32 of what is stored for each group, for each group of the flattened matrix, or once."""
    values = dense(part)
    if values is None:
        return None
    return values.expand(rows, groups) if values.numel() == 1 else values.reshape(rows, groups)


def _zero(Q: QTensor, scale: Tensor) -> Tensor | None:
    """zero of `scale · (code − zero)`, real; None for 2^(bits − 1), which the kernels know."""
    if not _even(Q.spec):
        return None
    zero, offset = (_per_row(part, *scale.shape) for part in (Q.zero, Q.offset))
    first = Q.spec.grid.levels[0]
    if zero is None and offset is None and first == -(2 ** (Q.spec.bits - 1)):
        return None
    shift = torch.zeros_like(scale) if zero is None else zero
    return shift - first if offset is None else shift - first - offset / scale


def _codebook(Q: QTensor) -> Tensor | None:
    return None if _even(Q.spec) else Q.spec.grid.table.to(Q.codes.device)


@torch.library.custom_op("qlab::multiply_gpu", mutates_args=())
def _multiply(
    X: Tensor, codes: Tensor, params: Tensor, codebook: Tensor | None, order: Tensor | None, table: list[int] | None,
    bits: int, columns: int, group: int, has_zero: bool, counted: bool
) -> Tensor:  # fmt: skip
    triton = kernels()
    if X.device.type == "cpu" and not triton.device.INTERPRETED:
        raise QlabError("this layer is packed for a GPU, its input is on the CPU: move model and input to the GPU, or "
                        "load the model again with device='cpu'")  # fmt: skip
    shape = (codes.shape[2], columns)
    constants = None if table is None else tuple(table)
    weights = triton.Weights(bits, shape, group, codes, params, has_zero, X.dtype, codebook, order, constants)
    return triton.multiply(X.contiguous(), weights, deterministic=not counted)


@_multiply.register_fake
def _(X, codes, params, codebook, order, table, bits, columns, group, has_zero, counted):  # type: ignore[no-untyped-def]
    return X.new_empty(X.shape[0], codes.shape[2])
