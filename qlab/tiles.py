"""QTensors in the layout of the CPU kernels: sixteen rows by thirty-two columns at a time, as small as a file is.

`kernels/cpu/tiles.h` draws it. A QTensor goes in once, when a model is loaded, and comes out again unchanged; what
every kind of file holds (GGUF's blocks, GPTQ, AWQ, compressed-tensors) is a QTensor before.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.kernels import cpu
from qlab.packed import BLOCK, ROWS, Packed, room, tiled, untiled
from qlab.qtensor import QTensor
from qlab.spec import DTYPES, QuantSpec

SUPER = 256
TABLES = {"iq4_nl"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Tiled(Packed):
    """A quantized matrix [rows, columns] as tiles. bits_stored: of the QTensor, as a file holds it."""

    spec: QuantSpec
    bits_stored: int

    def qtensor(self) -> QTensor:
        """The QTensor that was tiled."""
        codes = torch.empty(self.shape, dtype=torch.uint8)
        cpu.untile(self.codes, 0, codes, torch.get_num_threads())
        rows, kind = self.shape[0], cpu.formats()[self.format]
        scale: Tensor | QTensor = untiled(cast(Tensor, self.scale), rows)
        offset: Tensor | QTensor | None = None if self.offset is None else untiled(self.offset, rows)
        zero = None
        if kind["super"]:
            assert self.sub is not None and isinstance(scale, Tensor) and self.spec.scale is not None
            steps, minima = _parted(self.sub, kind)
            first = int(self.spec.scale.grid.levels[0])
            steps = untiled(steps, rows) - (0 if kind["extra"] == "min" else 128 + first)
            scale = QTensor(steps.to(torch.uint8), scale, self.spec.scale)
            if minima is not None:
                assert self.spec.offset is not None
                offset = QTensor(untiled(minima, rows), -cast(Tensor, offset), self.spec.offset)
        else:
            scale = cast(Tensor, scale).to(DTYPES[self.spec.dtype])
        if kind["extra"] == "zero":
            zero, offset = offset, None
        index = None
        if self.order is not None:
            back = self.order.argsort()
            codes, index = codes[:, back], (back // (self.group * BLOCK)).to(torch.int32)
        return QTensor(codes, scale, self.spec, cast("Tensor | None", zero), offset, index)


def tile(Q: QTensor) -> Tiled:
    """Q in the kernels' layout; QlabError, saying why, where no kernel reads what it holds."""
    spec, (rows, columns) = Q.spec, Q.shape
    name, group = format_of(Q)
    _tell_of_slowness()
    order = None
    codes, index = Q.codes, Q.group_index
    if index is not None:
        order = index.long().argsort(stable=True)
        codes = codes[:, order]
        if not torch.equal(index.long()[order], torch.arange(columns) // spec.group_in(columns)):
            raise QlabError(f"the groups of {spec} are not of one size: torch multiplies this layer")
    tiles = room(-(-rows // ROWS), columns // BLOCK, 64 * spec.bits)
    cpu.tile(codes.contiguous(), spec.bits, tiles, torch.get_num_threads())
    arrays = (_super_arrays if isinstance(Q.scale, QTensor) else _plain_arrays)(Q, name)
    return Tiled(
        format=name, shape=(rows, columns), codes=tiles, **arrays, group=group, order=order, spec=spec,
        bits_stored=Q.bits_stored,
    )  # fmt: skip


def _plain_arrays(Q: QTensor, format: str) -> dict[str, Any]:
    """One float scale a group, and a zero point or a minimum."""
    scale = cast(Tensor, Q.scale)
    extra = {"none": None, "zero": Q.zero, "min": Q.offset}[cpu.formats()[format]["extra"]]
    if extra is not None and extra is Q.zero:
        extra = extra.to(torch.uint8)
    return {
        "scale": tiled(scale if scale.dtype == torch.float16 else scale.float()),
        "offset": None if extra is None else tiled(cast(Tensor, extra)),
    }


def _super_arrays(Q: QTensor, format: str) -> dict[str, Any]:
    """Scales and minima of one byte under a float16 for 256 columns; a signed scale is stored + 128."""
    kind, scale = cpu.formats()[format], cast(QTensor, Q.scale)
    per, d = SUPER // kind["span"], tiled(cast(Tensor, scale.scale))
    steps = scale.codes.to(torch.int16) + int(scale.spec.grid.levels[0])
    if kind["extra"] == "none":
        return {"scale": d, "sub": tiled((steps + 128).to(torch.uint8), per)}
    offset, steps = cast(QTensor, Q.offset), steps.to(torch.uint8)
    if kind["nibbles"]:
        sub = tiled(steps | offset.codes << 4, per)
    else:
        sub = torch.cat([tiled(steps, per), tiled(offset.codes, per)], 2)
    return {"scale": d, "offset": tiled(-cast(Tensor, offset.scale)), "sub": sub}


def tile_parts(parts: Iterable[QTensor], rows: int) -> Tiled:
    """The same for a matrix of `rows` rows that comes in parts, each but the last a multiple of 16 rows.

    Memory is the tiles and one part.
    """
    whole: dict[str, Any] = {}
    at = bits = 0
    for Q in parts:
        part = tile(Q)
        bits += part.bits_stored
        for name in ("codes", "scale", "offset", "sub"):
            piece = getattr(part, name)
            if piece is not None:
                if name not in whole:
                    whole[name] = room(-(-rows // ROWS), *piece.shape[1:], dtype=piece.dtype)
                target = whole[name]
                target[at : at + len(piece)] = piece
        at += len(part.codes)
    return replace(part, shape=(rows, part.shape[1]), bits_stored=bits, **whole)


def format_of(Q: QTensor) -> tuple[str, int]:
    """The kernels' format for Q, and how many blocks of 32 columns share a scale; QlabError where there is none."""
    spec, columns = Q.spec, Q.shape[1]
    nested = isinstance(Q.scale, QTensor)
    extra = "zero" if Q.zero is not None else "min" if Q.offset is not None else "none"
    size = spec.group_in(columns)
    span = size if nested else BLOCK
    name = _by_fields().get((spec.bits, spec.grid.name in TABLES, nested, span, extra))
    if problem := _problem(Q, name, size):
        raise QlabError(f"{spec} has no CPU kernel: {problem}; torch multiplies this layer")
    return cast(str, name), 8 if nested else size // BLOCK


def _problem(Q: QTensor, name: str | None, size: int) -> str | None:
    """What keeps a kernel from reading Q."""
    if not cpu.available:
        return str(cpu.missing)
    spec, columns = Q.spec, Q.shape[1]
    if not (spec.grid.is_integer or spec.grid.name in TABLES) or spec.blocking != "row":
        return "its grid is not one of integers in rows"
    if name is None or Q.scale is None:
        return "no kernel has these bits with these scales"
    if isinstance(Q.scale, QTensor):
        offset = Q.offset.scale if isinstance(Q.offset, QTensor) else Q.offset
        plain = all(p is None or (isinstance(p, Tensor) and p.dtype == torch.float16) for p in (Q.scale.scale, offset))
        per = spec.scale.group_in(columns // size) * size if spec.scale else 0
        return None if plain and per == SUPER and columns % SUPER == 0 else "its scales are not those of a super-block"
    if columns % BLOCK or size % BLOCK:
        return f"rows of {columns} in groups of {size} are no multiples of 32"
    if Q.zero is not None and not 0 <= int(Q.zero.min()) <= int(Q.zero.max()) < 256:
        return "a zero point does not fit a byte"
    if Q.zero is None and Q.offset is None and spec.grid.is_integer and spec.grid.levels[0] != -(2 ** (spec.bits - 1)):
        return "its codes are neither signed nor have a zero point"
    if isinstance(Q.offset, QTensor) or (Q.offset is not None and Q.offset.dtype != torch.float16):
        return "its minima are not float16"
    if Q.scale.shape[0] != Q.shape[0] or Q.scale.shape[1] != spec.group_count(columns):
        return "its scales are shared between rows"
    return None


@cache
def _tell_of_slowness() -> None:
    """Once: a processor without vectors that the kernels know."""
    if cpu.isa() == "scalar" and os.environ.get("QLAB_CPU_ISA") != "scalar":
        found = ", ".join(cpu.features()) or "none that we ask for"
        warnings.warn(
            f"this processor has none of AVX-512 VNNI, AVX2 with FMA, or NEON with the dot product (it has {found}): "
            "packed weights are multiplied one by one, which is right but slow",
            stacklevel=3,
        )


@cache
def _by_fields() -> dict[tuple[int, bool, bool, int, str], str]:
    return {(k["bits"], k["table"], k["super"], k["span"], k["extra"]): name for name, k in cpu.formats().items()}


def _parted(sub: Tensor, kind: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Scales and minima of super-blocks [tiles, supers, groups, 16]."""
    if kind["nibbles"]:
        return sub & 15, sub >> 4
    if kind["extra"] == "min":
        half = sub.shape[2] // 2
        return sub[:, :, :half], sub[:, :, half:]
    return sub, None
