"""Quantized weights as the kernels read them, packed once when a model is loaded.

Codes: int16 words [blocks, tiles, N, H], see `unpack.py`: a kernel's tile of any number of rows is one run of memory.
Scales: int32 words [words, N]. With zeros a group's word holds its scale low and its zero high; without, it holds the
scales of two groups that follow each other, or of one where a block of columns lies in one group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_packing, require
from .unpack import parts, places, tiles

BLOCK = 256  # columns a block has at most: 128 bytes of a row at 4 bits, four cache sectors


class Kind(NamedTuple):
    """How weights are stored. group: columns of a scale, 0 where a row has but one."""

    bits: int = 4
    group: int = 128
    zero: bool = False
    table: bool = False


@dataclass(frozen=True)
class Weights:
    """W [N, K] = scale · (code − zero), or scale · codebook[code], for the kernels of this folder.

    group: columns that share a scale; K: one scale for each row. has_zero: without one, zero is 2^(bits − 1).
    codebook: 16 numbers of its dtype. order [K] (act-order): groups are runs of W[:, order], which is how it is stored.
    dtype: of the scales, and of the X that these weights multiply. table: the codebook's bits, constants of the kernel
    that is compiled for it (`table_bits`; kept, since asking the device would stop a captured graph).
    """

    bits: int
    shape: tuple[int, int]
    group: int
    codes: Tensor
    params: Tensor
    has_zero: bool
    dtype: torch.dtype
    codebook: Tensor | None = None
    order: Tensor | None = None
    table: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        require((self.codebook is None) == (self.table is None), "a codebook and its bits go together: table_bits()")

    @property
    def part(self) -> int:
        """H: columns of a part."""
        return self.codes.shape[3]

    @property
    def kind(self) -> Kind:
        """What kernels are compiled and tiles chosen for."""
        return Kind(self.bits, 0 if self.group == self.shape[1] else self.group, self.has_zero, self.table is not None)

    @property
    def block(self) -> int:
        """Columns of a block."""
        return self.part * parts(self.bits)

    @property
    def nbytes(self) -> int:
        """Bytes a kernel reads of them."""
        return self.codes.nbytes + self.params.nbytes

    @property
    def pairs(self) -> bool:
        """Whether a word of `params` holds the scales of two groups."""
        return not self.has_zero and self.group * 2 <= self.block and self.group < self.shape[1]

    def with_params(self, params: Tensor) -> Weights:
        """These codes with other scales and zeros."""
        return replace(self, params=params)

    def to(self, device: torch.device | str) -> Weights:
        """The same weights on another device."""
        moved = {name: value.to(device) for name in ("codes", "params", "codebook", "order")
                 if (value := getattr(self, name)) is not None}  # fmt: skip
        return replace(self, **moved)


def part_columns(bits: int, group: int, K: int) -> int:
    """H: a block lies within BLOCK columns, a part within a group; of 4 bits at 64 two parts do, for `int8.py`."""
    widest = min(BLOCK // parts(bits), 64)  # wider parts of 8 bits would fill the registers
    if group == K:
        return widest
    return min(widest, 32 if group == 64 and bits == 4 else group)


def pack(
    codes: Tensor, scale: Tensor, zero: Tensor | None = None, *, bits: int, codebook: Tensor | None = None,
    order: Tensor | None = None, dtype: torch.dtype | None = None,
) -> Weights:  # fmt: skip
    """Pack uint8 `codes` [N, K], `scale` [N, groups] and `zero` (integer or real) [N, groups] or None.

    Columns of `codes` are those of X; with `order`, groups are runs of codes[:, order]. The group is K / groups: a
    power of two of at least 16, or K itself. dtype (float16, bfloat16) defaults to the scale's. Errors: ValueError.
    """
    dtype = dtype or scale.dtype
    check_packing(codes, scale, zero, bits, codebook, order, dtype)
    N, K = codes.shape
    group = K // scale.shape[1]
    codes = codes if order is None else codes.index_select(1, order)
    words = pack_codes(codes, bits, part_columns(bits, group, K))
    codebook = None if codebook is None else codebook.to(dtype)
    table, none = table_bits(codebook), torch.empty(0)
    bare = Weights(bits, (N, K), group, words, none, zero is not None, dtype, codebook, order, table)
    return bare.with_params(pack_params(bare, scale, zero))


def table_bits(codebook: Tensor | None) -> tuple[int, ...] | None:
    """The 16 numbers of a codebook as bits."""
    return None if codebook is None else tuple(bits & 0xFFFF for bits in codebook.view(torch.int16).tolist())


def unpack(weights: Weights) -> tuple[Tensor, Tensor, Tensor | None]:
    """The inverse of `pack`: codes [N, K] uint8, scale [N, groups] and zero [N, groups] or None, both of its dtype."""
    K = weights.shape[1]
    scale, zero = unpack_params(weights)
    codes = unpack_codes(weights.codes, weights.bits)[:, :K].contiguous()
    if weights.order is not None:
        codes = torch.empty_like(codes).index_copy_(1, weights.order, codes)
    return codes, scale, zero


def pack_codes(codes: Tensor, bits: int, H: int) -> Tensor:
    """uint8 [N, K] → int16 words [blocks, tiles, N, H]; columns beyond K are code 0."""
    (N, K), V = codes.shape, parts(bits)
    blocks = -(-K // (V * H))
    padded = torch.nn.functional.pad(codes, (0, blocks * V * H - K)).reshape(N, blocks, V, H).to(torch.int32)
    words = torch.zeros(blocks, tiles(bits), N, H, dtype=torch.int32, device=codes.device)
    for part in range(V):
        for tile, shift, width, bit in places(bits, part):
            words[:, tile] |= ((padded[:, :, part] >> bit & (1 << width) - 1) << shift).movedim(1, 0)
    return words.to(torch.int16)  # modulo 2^16


def unpack_codes(words: Tensor, bits: int) -> Tensor:
    """int16 words [blocks, tiles, N, H] → uint8 [N, blocks · parts · H]."""
    (blocks, _, N, H), V = words.shape, parts(bits)
    codes = torch.zeros(N, blocks, V, H, dtype=torch.int32, device=words.device)
    for part in range(V):
        for tile, shift, width, bit in places(bits, part):
            codes[:, :, part] |= ((words[:, tile].to(torch.int32) >> shift & (1 << width) - 1) << bit).movedim(0, 1)
    return codes.to(torch.uint8).reshape(N, -1)


def pack_params(weights: Weights, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Scale [N, groups] and zero → int32 words [words, N]."""
    rows = _padded(weights, scale.to(weights.dtype).T)
    if zero is not None:
        low, high = rows, _padded(weights, zero.to(weights.dtype).T)
    elif weights.pairs:
        low, high = rows[0::2], rows[1::2]
    else:
        low, high = rows, torch.zeros_like(rows)
    return torch.stack([low, high], -1).contiguous().view(torch.int32).squeeze(-1)


def unpack_params(weights: Weights) -> tuple[Tensor, Tensor | None]:
    """The inverse of `pack_params`."""
    groups = weights.shape[1] // weights.group
    halves = weights.params.unsqueeze(-1).contiguous().view(weights.dtype)  # [words, N, 2]
    if weights.has_zero:
        scale, zero = halves[:groups].unbind(-1)
        return scale.T.contiguous(), zero.T.contiguous()
    rows = halves.movedim(2, 1).reshape(-1, weights.shape[0]) if weights.pairs else halves[..., 0]
    return rows[:groups].T.contiguous(), None


def _padded(weights: Weights, rows: Tensor) -> Tensor:
    """[groups, N] with a row for every group of the last block, the added ones 0."""
    wanted = weights.codes.shape[0] * weights.block // weights.group
    return torch.nn.functional.pad(rows, (0, 0, 0, max(wanted - len(rows), 0)))
