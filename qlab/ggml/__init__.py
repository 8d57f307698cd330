"""GGUF's tensor types: how many weights a block holds, in how many bytes, and what each bit of it says.

A block is the unit of a row. `decode` gives its numbers; for types of a grid, `unpack` and `pack` go between the bytes
and a `QTensor`, so that every method can fill a block and every lesson can look into one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec

Fields = dict[str, Tensor]
"""The fields of blocks by name, each [blocks, numbers], in the dtype they are stored in."""
FieldTable = tuple[tuple[str, torch.dtype, int], ...]
"""(name, dtype, how many) of every field, in the order of the bytes."""


class BlockType:
    """A tensor type of ggml. name: as GGUF calls it; weights: in a block; nbytes: of a block."""

    name: ClassVar[str]
    weights: ClassVar[int]
    nbytes: ClassVar[int]

    @property
    def bits_per_weight(self) -> float:
        """True bits, scales included."""
        return 8 * self.nbytes / self.weights

    def check(self, shape: tuple[int, ...], name: str = "weight") -> None:
        """QlabError, naming `name`, unless blocks divide the rows of `shape`."""
        if not shape or shape[-1] % self.weights:
            raise QlabError(f"{name} has rows of {shape[-1] if shape else 0}: {self.name} needs a multiple of "
                            f"{self.weights}; choose a type of smaller blocks")  # fmt: skip

    def blocks(self, data: Tensor) -> Tensor:
        """The stored bytes uint8 [..., bytes of a row] as [blocks, nbytes]."""
        if data.dtype != torch.uint8 or data.shape[-1] % self.nbytes:
            raise QlabError(f"{self.name}: rows of {data.shape[-1]} {data.dtype}: {self.nbytes} bytes make a block")
        return data.reshape(-1, self.nbytes)

    def decode(self, data: Tensor) -> Tensor:
        """The numbers, float32 [..., row], of stored bytes uint8 [..., bytes of a row]."""
        raise NotImplementedError

    def encode_plain(self, W: Tensor) -> Tensor:
        """Bytes of numbers that need no search: only for types that are floats themselves."""
        raise QlabError(f"{self.name} has a grid: quantize first, then pack")


class GridType(BlockType):
    """A type whose blocks are a QTensor: `spec` says which, `fields` what stands where.

    fields: (name, dtype, how many) in the order of the bytes; `_read` and `_write` go between them and a QTensor of
    shape [blocks, weights].
    """

    spec: ClassVar[QuantSpec]
    fields: ClassVar[FieldTable]

    @property
    def bit_costs(self) -> tuple[float, float, float]:
        """Bits per weight of the codes; of scales and minima; of the floats that those are multiples of, if any."""
        parts = [part for part in (self.spec.scale, self.spec.offset) if part is not None]
        coded = sum(part.bits * self.weights // cast(int, self.spec.group_size) for part in parts) / self.weights
        floats = sum(16 * count for _, dtype, count in self.fields if dtype == torch.float16) / self.weights
        codes = self.bits_per_weight - coded - floats
        return (codes, coded, floats) if parts else (codes, floats, 0.0)

    def _read(self, f: Fields) -> QTensor:
        """The QTensor [blocks, weights] that fields spell out."""
        raise NotImplementedError

    def _write(self, Q: QTensor) -> Fields:
        """The fields of a QTensor [blocks, weights]."""
        raise NotImplementedError

    def decode(self, data: Tensor) -> Tensor:
        """Scale · level + offset, in float32 as ggml computes it."""
        return self._read(self.split(self.blocks(data))).dequantize().reshape(*data.shape[:-1], -1)

    def unpack(self, data: Tensor) -> QTensor:
        """The QTensor [out, in] of stored bytes uint8 [out, bytes of a row]."""
        Q = self._read(self.split(self.blocks(data)))
        return _reshaped(Q, (len(data), Q.codes.numel() // len(data)))

    def pack(self, Q: QTensor) -> Tensor:
        """The bytes uint8 [out, bytes of a row] of a QTensor [out, in] of this type's spec."""
        if Q.spec != self.spec or Q.group_index is not None:
            raise QlabError(f"{Q.spec} does not fit into {self.name}, which is {self.spec}: quantize to that")
        self.check(Q.shape)
        rows = len(Q.codes)
        return self.join(self._write(_reshaped(Q, (Q.codes.numel() // self.weights, self.weights)))).reshape(rows, -1)

    def split(self, blocks: Tensor) -> Fields:
        """Fields of blocks uint8 [blocks, nbytes]."""
        at, found = 0, {}
        for name, dtype, count in self.fields:
            size = count * torch.empty(0, dtype=dtype).element_size()
            found[name] = blocks[:, at : at + size].contiguous().view(dtype)
            at += size
        return found

    def join(self, fields: Fields) -> Tensor:
        """The inverse of `split`."""
        parts = [fields[name].to(dtype).contiguous().view(torch.uint8) for name, dtype, _ in self.fields]
        return torch.cat(parts, dim=1)


def _reshaped(Q: QTensor, shape: tuple[int, int]) -> QTensor:
    """The same numbers with rows of another length: groups lie along rows, so nothing moves."""

    def part(p: Tensor | QTensor | None) -> Tensor | QTensor | None:
        if isinstance(p, QTensor):
            return _reshaped(p, (shape[0], p.codes.numel() // shape[0]))
        return None if p is None else p.reshape(shape[0], -1)

    return QTensor(Q.codes.reshape(shape), part(Q.scale), Q.spec, offset=part(Q.offset))


def from_planes(data: Tensor, bits: int, run: int) -> Tensor:
    """Codes of `bits` bits from bytes uint8 [blocks, n], in ggml's order: [blocks, n · 8/bits].

    Each run of `run` bytes holds 8/bits planes: the lowest bits of all of them come first, then the next ones.
    """
    x = data.reshape(len(data), -1, 1, run)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)[:, None]
    return ((x >> shifts) & (2**bits - 1)).reshape(len(data), -1)


def to_planes(codes: Tensor, bits: int, run: int) -> Tensor:
    """The inverse of `from_planes`: uint8 [blocks, n · bits/8]."""
    x = codes.reshape(len(codes), -1, 8 // bits, run)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)[:, None]
    return (x << shifts).sum(2, dtype=torch.uint8).reshape(len(codes), -1)


_TYPES: dict[str, BlockType] = {}
T = TypeVar("T", bound=type[BlockType])


def register_block(name: str) -> Callable[[T], T]:
    """Make a class known as the tensor type `name`."""

    def register(cls: T) -> T:
        cls.name = name
        _TYPES[name] = cls()
        return cls

    return register


def block_type(name: str) -> BlockType:
    """The tensor type that GGUF calls `name`: Q4_K, IQ4_XS, F16 …"""
    if name.upper() not in _TYPES:
        raise QlabError(f"unknown tensor type {name!r}: choose one of {', '.join(_TYPES)}")
    return _TYPES[name.upper()]


def grid_type(name: str) -> GridType:
    """The tensor type `name` if it is one of a grid, which can be quantized to."""
    found = block_type(name)
    if not isinstance(found, GridType):
        raise QlabError(f"{found.name} is not quantized to: choose one of {', '.join(grid_types())}")
    return found


def type_names() -> list[str]:
    """Every tensor type that can be decoded."""
    return list(_TYPES)


def grid_types() -> list[str]:
    """Every tensor type that can be quantized to."""
    return [name for name, kind in _TYPES.items() if isinstance(kind, GridType)]


from qlab.ggml import kquants, plain, small  # noqa: E402, F401  (the decorators in them fill the registry)
