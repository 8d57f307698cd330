"""QTensor: codes with what it takes to read them back, by one affine rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.spec import DTYPES, QuantSpec


@dataclass(frozen=True, eq=False)
class QTensor:
    """A quantized matrix: `W_hat = scale · (level(code) − zero) + offset`, per group.

    codes: uint8 [out, in], unpacked. scale, zero, offset: one per group, [lines, groups] in the spec's blocking (or
    [1, 1], shared by all); `scale` and `offset` may be QTensors themselves. `group_index` [in] names the group of each
    column where groups are not contiguous (GPTQ's act-order).
    """

    codes: Tensor
    scale: Tensor | QTensor | None
    spec: QuantSpec
    zero: Tensor | None = None
    offset: Tensor | QTensor | None = None
    group_index: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """[out, in]."""
        return self.codes.shape

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """W_hat [out, in] in `dtype`, computed in `dtype`."""
        lines = self.codes.reshape(self.spec.lines(self.shape))
        scale, offset = dense(self.scale, dtype), dense(self.offset, dtype)
        if self.group_index is not None:
            index = self.group_index.long()
            parts = (t if t is None else t[:, index] for t in (scale, self.zero, offset))
            return affine(self.spec.grid.decode(lines, dtype), *parts).reshape(self.shape)
        decode = self.spec.grid.decode
        W_hat = by_group(lambda q, *p: affine(decode(q, dtype), *p), lines, self.spec, scale, self.zero, offset)
        return W_hat.reshape(self.shape)

    def to(self, device: torch.device | str) -> QTensor:
        """The same on another device."""
        parts = {name: getattr(self, name) for name in ("codes", "scale", "zero", "offset", "group_index")}
        return replace(self, **{name: part.to(device) for name, part in parts.items() if part is not None})

    @property
    def bits_stored(self) -> int:
        """Bits of everything stored: packed codes, scales, zero points, minima, group index."""
        bits = round(self.codes.numel() * self.spec.grid.stored_bits)
        for part in (self.scale, self.offset):
            if isinstance(part, QTensor):
                bits += part.bits_stored
            elif part is not None:
                bits += part.numel() * part.element_size() * 8
        bits += 0 if self.zero is None else self.zero.numel() * self.spec.bits
        return bits + (0 if self.group_index is None else self.group_index.numel() * 32)

    @property
    def bits_per_weight(self) -> float:
        """True bits per weight, metadata included."""
        return self.bits_stored / self.codes.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of the packed tensor: what a file would hold, not what unpacked codes take in memory."""
        return math.ceil(self.bits_stored / 8)

    def error(self, W: Tensor, weight: Tensor | None = None) -> QuantError:
        """How far W_hat is from `W` [out, in]; see `QuantError` for what `weight` does.

        In float64, unless W and a matrix `weight` are both narrower: then in float32, several times as fast.
        """
        single = weight is not None and weight.ndim == 2 and torch.float64 not in (W.dtype, weight.dtype)
        dtype = torch.float32 if single else torch.float64
        return QuantError.of(W.to(dtype) - self.dequantize(dtype), W.to(dtype), weight)

    def __repr__(self) -> str:
        return f"QTensor({self.spec}, {list(self.shape)}, {self.bits_per_weight:.4g} bits/weight)"


@dataclass(frozen=True)
class QuantError:
    """Errors of an approximation of W: mean square, relative to W's own, the largest, and the ratio in decibels."""

    mse: float
    rel_mse: float
    max_abs: float

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio, 10·log10(1/rel_mse); infinite where nothing was lost."""
        return math.inf if self.rel_mse == 0 else -10 * math.log10(self.rel_mse)

    @classmethod
    def of(cls, E: Tensor, W: Tensor, weight: Tensor | None = None) -> QuantError:
        """Errors of E = W − W_hat, both [out, in].

        `weight` None is the plain norm Σe²; a vector [in] (mean x² per channel) weighs input channels; a matrix
        [in, in] (XᵀX) gives the output error tr(E·H·Eᵀ), GPTQ's objective (arXiv 2210.17323, eq. 1).
        """
        if weight is None:
            weight = torch.ones(W.shape[-1])
        norm = _norm_vector if weight.ndim == 1 else _norm_matrix
        if weight.shape[-1] != W.shape[-1]:
            raise QlabError(
                f"error weights have {weight.shape[-1]} channels, the matrix {W.shape[-1]}: use its own inputs"
            )
        squared, of_W = norm(E, weight.to(E.dtype)), norm(W, weight.to(E.dtype))
        relative = squared / of_W if of_W > 0 else torch.where(squared > 0, torch.inf, 0.0)
        return cls(float(squared / W.numel()), float(relative), float(E.abs().max()))


def _norm_vector(E: Tensor, weight: Tensor) -> Tensor:
    return (E.square() * weight).sum()


def _norm_matrix(E: Tensor, H: Tensor) -> Tensor:
    return ((E @ H) * E).sum()


def dense(part: Tensor | QTensor | None, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """A scale or offset as numbers, whatever it is stored as."""
    return part.dequantize(dtype) if isinstance(part, QTensor) else None if part is None else part.to(dtype)


def affine(levels: Tensor, scale: Tensor | None, zero: Tensor | None, offset: Tensor | None) -> Tensor:
    """`scale · (level − zero) + offset`, with what is None left out; works in place on `levels`.

    In place, because a fresh tensor at each step costs more in page faults than the arithmetic does.
    """
    if zero is not None:
        levels.sub_(zero.to(levels.dtype))
    if scale is not None:
        levels.mul_(scale)
    return levels if offset is None else levels.add_(offset)


def by_group(fn: Callable[..., Tensor], lines: Tensor, spec: QuantSpec, *per_group: Tensor | None) -> Tensor:
    """Apply `fn(x [lines, groups, size], *params [lines, groups, 1])` to whole groups and to a shorter last one.

    `per_group` tensors are [lines, groups] (or [1, 1], shared). Results of the same shape as `x` come back as
    [lines, length]; results with one value per group come back as [lines, groups].
    """
    length = lines.shape[-1]
    size = spec.group_in(length)
    whole = length // size
    results = []
    for columns, groups, width in (
        (slice(0, whole * size), slice(0, whole), size),
        (slice(whole * size, length), slice(whole, whole + 1), length - whole * size),
    ):
        if width:
            params = (p if p is None else (p[..., None] if p.shape[-1] == 1 else p[:, groups, None]) for p in per_group)
            results.append(fn(lines[:, columns].unflatten(-1, (-1, width)), *params).flatten(1))
    return results[0] if len(results) == 1 else torch.cat(results, dim=-1)


def encode(
    W: Tensor,
    spec: QuantSpec,
    scale: Tensor | QTensor | None,
    zero: Tensor | None = None,
    offset: Tensor | QTensor | None = None,
    rounding: Tensor | None = None,
) -> Tensor:
    """Codes (uint8, the shape of `W`) of the nearest levels under the scale, zero and offset as they are stored.

    `rounding` [out, in], in grid units, is added to what is rounded.
    """
    lines = W.reshape(spec.lines(W.shape))

    def units(x: Tensor, s: Tensor | None, o: Tensor | None) -> Tensor:
        x = x if o is None else x - o
        # a scale that its own grid rounded to zero can only give offset back: any code will do
        return x if s is None else x / torch.where(s == 0, 1, s)

    x = by_group(units, lines, spec, dense(scale, W.dtype), dense(offset, W.dtype))
    if rounding is not None:
        x = x + rounding.reshape(x.shape)
    return by_group(spec.grid.encode, x, spec, zero).reshape(W.shape)


def check_finite(W: Tensor, name: str = "weight") -> None:
    """Raise QlabError, naming `name`, where the first NaN or infinity stands."""
    if not W.is_floating_point():
        raise QlabError(f"{name} holds {W.dtype} numbers: quantization starts from floating point")
    if not (finite := W.isfinite()).all():
        row, column = (~finite).nonzero()[0].tolist()
        raise QlabError(f"{name} holds {W[row, column]} at row {row}, column {column}: repair the checkpoint first")


def storage(values: Tensor, spec: QuantSpec, name: str = "scale") -> Tensor:
    """`values` in the dtype that `spec` stores, refusing what does not fit and keeping scales from vanishing."""
    dtype = DTYPES[spec.dtype]
    stored = values.to(dtype)
    if values.isnan().any():
        raise QlabError(f"a {name} is NaN: the numbers to quantize hold NaN or infinity")
    if not stored.isfinite().all():
        raise QlabError(
            f"a {name} of {values.abs().max():.3g} does not fit {spec.dtype}: store it as fp32 ({spec}-fp32)"
        )
    return stored
