"""A matrix in the layout that the CPU kernels read: sixteen rows at a time, a row to a lane, as small as a file is.

`kernels/cpu/tiles.h` draws it. Floats lie in it as they are stored; what is quantized is `qlab.tiles.Tiled`.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.kernels import cpu

ROWS, BLOCK = 16, 32
FLOATS = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
"""What is not quantized, and the format of its kernels."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Packed:
    """A matrix [rows, columns] for the CPU kernels. `format` is one of `cpu.formats()` or of `cpu.floats()`.

    group: blocks of 32 columns that share a scale. order: the columns in the order in which they are stored, where
    groups are scattered over them (act-order). The shapes of the arrays stand in `tiles.h`.
    """

    format: str
    shape: tuple[int, int]
    codes: Tensor
    scale: Tensor | None = None
    offset: Tensor | None = None
    sub: Tensor | None = None
    group: int = 1
    order: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(t.numel() * t.element_size() for t in (*self.arrays, self.order) if t is not None)

    @property
    def arrays(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Codes and whatever else the format has, as kernels take them."""
        return self.codes, self.scale, self.offset, self.sub

    @cached_property
    def _matrix(self) -> tuple[Any, ...]:
        return _matrix(self.arrays, self.format, self.group, self.shape[0])

    @property
    def is_float(self) -> bool:
        """Whether it is not quantized: its kernels take inputs as they are."""
        return self.format in FLOATS.values()

    @property
    def multiplies_on(self) -> str:
        """The instruction set whose kernel multiplies."""
        return cpu.isa()

    def multiply(self, X: Tensor, half: bool = False, isa: str = "", threads: int | None = None) -> Tensor:
        """X̂ · W_hatᵀ, float32 [tokens, rows], of X float32 [tokens, columns]; of floats X̂ is X.

        Beside quantized weights X is rounded to 8 bits by block; half: blocks of 32 inputs store their scale in
        float16, as llama.cpp's do; there an input with a NaN or an infinity gives NaN for its whole token.
        """
        X = X if self.order is None else X[:, self.order]
        Y = torch.empty(len(X), self.shape[0])
        x, threads = X.detach().contiguous().numpy(), threads or torch.get_num_threads()
        cpu.multiply(*self._matrix, x, Y.numpy(), half, threads, isa)
        return Y

    def dequantize(self, first: int = 0, rows: int | None = None) -> Tensor:
        """W_hat float32 of `rows` rows from `first`, a multiple of 16; all of them by default."""
        rows = self.shape[0] - first if rows is None else rows
        how = self.format, self.group, self.shape[0]
        return self._as_given(torch.ops.qlab.dequantize(*self.arrays, *how, first, rows))

    def rows(self, ids: Tensor) -> Tensor:
        """W_hat float32 [ids, columns] of the rows `ids`, integers [n], alone."""
        how = self.format, self.group, self.shape[0]
        return self._as_given(torch.ops.qlab.dequantize_rows(*self.arrays, *how, ids))

    def _as_given(self, W_hat: Tensor) -> Tensor:
        """Its columns in the order that the matrix has, not the stored one."""
        return W_hat if self.order is None else W_hat[:, self.order.argsort()]


def _matrix(parts: Iterable[Tensor | None], format: str, group: int, rows: int) -> tuple[Any, ...]:
    """What every kernel asks for; NumPy's views cost a call a tenth of what tensors do."""
    return format, *(None if t is None else t.numpy() for t in parts), group, rows


# Operators of torch, with their shapes: torch.compile sees through whatever a packed matrix does.
@torch.library.custom_op("qlab::dequantize", mutates_args=())
def _dequantize(
    codes: Tensor, scale: Tensor | None, offset: Tensor | None, sub: Tensor | None, format: str, group: int, rows: int,
    first: int, count: int,
) -> Tensor:  # fmt: skip
    out = torch.empty(count, codes.shape[1] * BLOCK)
    cpu.dequantize(*_matrix((codes, scale, offset, sub), format, group, rows), first, out, torch.get_num_threads())
    return out


@_dequantize.register_fake
def _(codes, scale, offset, sub, format, group, rows, first, count):  # type: ignore[no-untyped-def]
    return codes.new_empty(count, codes.shape[1] * BLOCK, dtype=torch.float32)


@torch.library.custom_op("qlab::dequantize_rows", mutates_args=())
def _dequantize_rows(
    codes: Tensor, scale: Tensor | None, offset: Tensor | None, sub: Tensor | None, format: str, group: int, rows: int,
    ids: Tensor,
) -> Tensor:  # fmt: skip
    out = torch.empty(len(ids), codes.shape[1] * BLOCK)
    matrix = _matrix((codes, scale, offset, sub), format, group, rows)
    ids = ids.long() if ids.dtype == torch.int32 else ids  # nn.Embedding takes both
    cpu.dequantize_rows(*matrix, ids.contiguous(), out, torch.get_num_threads())
    return out


@_dequantize_rows.register_fake
def _(codes, scale, offset, sub, format, group, rows, ids):  # type: ignore[no-untyped-def]
    return codes.new_empty(len(ids), codes.shape[1] * BLOCK, dtype=torch.float32)


def packs_floats(shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether the kernels multiply a float matrix of this shape and dtype."""
    return cpu.available and dtype in FLOATS and len(shape) == 2 and shape[1] % BLOCK == 0 and min(shape) > 0


def pack_floats(parts: Iterable[Tensor], shape: tuple[int, int]) -> Packed:
    """A float matrix that comes in parts of rows, each but the last a multiple of 16; its bits stay as they are."""
    values, at = None, 0
    for part in parts:
        if values is None:
            if not packs_floats(shape, part.dtype):
                raise QlabError(f"{part.dtype} {list(shape)} has no CPU kernel: 32 must divide the columns")
            values = room(-(-shape[0] // ROWS), shape[1], ROWS, dtype=part.dtype)
        piece = tiled(part)
        values[at : at + len(piece)] = piece
        at += len(piece)
    assert values is not None
    codes = values.view(torch.uint8).reshape(len(values), shape[1] // BLOCK, -1)
    return Packed(format=FLOATS[values.dtype], shape=shape, codes=codes)


def room(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """A tensor of zeros in pages of its own, large ones in huge pages, which are read faster.

    Not from the heap: what lives as long as a model would lie between what was freed while it was loaded.
    """
    count = math.prod(shape) * dtype.itemsize
    if count < mmap.PAGESIZE or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.zeros(shape, dtype=dtype)
    memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).reshape(shape)


def tiled(values: Tensor, per: int | None = None) -> Tensor:
    """[rows, n] → [tiles, n, 16], missing rows as zeros; [tiles, n / per, per, 16] where `per` is given."""
    missing = -len(values) % ROWS
    x = torch.nn.functional.pad(values, (0, 0, 0, missing)).unflatten(0, (-1, ROWS)).transpose(1, 2)
    return (x if per is None else x.unflatten(1, (-1, per))).contiguous()


def untiled(values: Tensor, rows: int) -> Tensor:
    """The inverse of `tiled`."""
    x = values.flatten(1, -2)
    return x.transpose(1, 2).flatten(0, 1)[:rows].contiguous()
