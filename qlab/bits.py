"""Packing: one dense little-endian bitstream serves GPTQ, compressed-tensors and MLX at every width.

Element `i` of a line occupies the stream's bits `[i·b, (i+1)·b)`; bit `k` of the stream is bit `k % 32` of word
`k // 32`. Codes may straddle words, so 32 codes fill exactly `b` words (GPTQ's "10-1-10-1-10" rule is this).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qlab.errors import QlabError

WORD = 32


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise QlabError(f"cannot pack {bits}-bit codes: bits must be 1 to 8")


def pack_bits(codes: Tensor, bits: int, axis: int = -1) -> Tensor:
    """Pack unsigned `codes` (any integer dtype) along `axis` into int32 words, `ceil(n·bits/32)` of them per line.

    Unused bits of the last word are zero. Raises QlabError if a code does not fit in `bits`: it would overwrite its
    neighbour.
    """
    _check_bits(bits)
    if codes.is_floating_point() or codes.is_complex():
        raise QlabError(f"codes are {codes.dtype}: pack_bits takes integers (use grid.encode first)")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < 2**bits:
        raise QlabError(f"codes span {codes.min()} … {codes.max()}: {bits} bits hold 0 … {2**bits - 1}")
    lines = codes.movedim(axis, -1)
    n = lines.shape[-1]
    lanes = _lanes(lines, WORD).to(torch.int32)  # [32, ..., n/32]
    words = torch.zeros(bits, *lanes.shape[1:], dtype=torch.int32)
    for i in range(WORD):
        word, shift = divmod(i * bits, WORD)
        words[word] |= lanes[i] << shift
        if shift + bits > WORD:  # the code straddles two words
            words[word + 1] |= lanes[i] >> (WORD - shift)
    return words.movedim(0, -1).flatten(-2)[..., : math.ceil(n * bits / WORD)].movedim(-1, axis).contiguous()


def unpack_bits(words: Tensor, bits: int, count: int, axis: int = -1) -> Tensor:
    """The first `count` codes (uint8) of each line of int32 `words` along `axis`: the inverse of `pack_bits`."""
    _check_bits(bits)
    lines = words.movedim(axis, -1).to(torch.int32)
    if lines.shape[-1] != math.ceil(count * bits / WORD):
        raise QlabError(
            f"{count} codes of {bits} bits need {math.ceil(count * bits / WORD)} words, got {lines.shape[-1]}"
        )
    lanes = _lanes(lines, bits)  # [bits, ..., n/32]
    codes = torch.empty(WORD, *lanes.shape[1:], dtype=torch.uint8)
    mask = 2**bits - 1
    for i in range(WORD):
        word, shift = divmod(i * bits, WORD)
        code = lanes[word] >> shift
        if shift + bits > WORD:
            # >> on int32 drags the sign bit in: keep only the bits that belong to this word
            code = (code & (2 ** (WORD - shift) - 1)) | (lanes[word + 1] << (WORD - shift))
        codes[i] = code & mask
    return codes.movedim(0, -1).flatten(-2)[..., :count].movedim(-1, axis).contiguous()


def _lanes(lines: Tensor, width: int) -> Tensor:
    """Lines [..., n], padded with zeros to whole runs of `width`, as [width, ..., runs].

    Contiguous by position in the run, because each shift below works on one position of all runs at once.
    """
    padded = torch.nn.functional.pad(lines, (0, -lines.shape[-1] % width))
    return padded.unflatten(-1, (-1, width)).movedim(-1, 0).contiguous()
