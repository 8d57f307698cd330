"""Packing: one dense little-endian bitstream serves GPTQ, compressed-tensors and MLX at every width.

Element `i` of a line occupies the stream's bits `[i·b, (i+1)·b)`; bit `k` of the stream is bit `k % 32` of word
`k // 32`. Codes may straddle words, so 32 codes fill exactly `b` words (GPTQ's "10-1-10-1-10" rule is this).

On the CPU `kernels/cpu/bits.cpp` does it; `pack_in_torch` and `unpack_in_torch` are its reference, and do it elsewhere
and without the kernels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.kernels import cpu

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
    compiled = cpu.available and codes.device.type == "cpu"
    if compiled and codes.dtype == torch.uint8:
        before, count, after = _split(codes.shape, axis)
        words = torch.empty(before, math.ceil(count * bits / WORD), after, dtype=torch.int32, device="cpu")
        if cpu.pack_bits(codes.contiguous().view(before, count, after), bits, words, torch.get_num_threads()):
            return words.view(*_with(codes.shape, axis, words.shape[1]))
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < 2**bits:
        raise QlabError(f"codes span {codes.min()} … {codes.max()}: {bits} bits hold 0 … {2**bits - 1}")
    return pack_bits(codes.to(torch.uint8), bits, axis) if compiled else pack_in_torch(codes, bits, axis)


def pack_in_torch(codes: Tensor, bits: int, axis: int = -1) -> Tensor:
    """What `pack_bits` does with codes that fit."""
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
    if words.shape[axis] != math.ceil(count * bits / WORD):
        raise QlabError(
            f"{count} codes of {bits} bits need {math.ceil(count * bits / WORD)} words, got {words.shape[axis]}"
        )
    if not (cpu.available and words.device.type == "cpu"):
        return unpack_in_torch(words, bits, count, axis)
    before, stored, after = _split(words.shape, axis)
    codes = torch.empty(before, count, after, dtype=torch.uint8, device="cpu")
    lines = words.to(torch.int32).contiguous().view(before, stored, after)
    cpu.unpack_bits(lines, bits, codes, torch.get_num_threads())
    return codes.view(*_with(words.shape, axis, count))


def unpack_in_torch(words: Tensor, bits: int, count: int, axis: int = -1) -> Tensor:
    """What `unpack_bits` does with as many words as it takes."""
    lines = words.movedim(axis, -1).to(torch.int32)
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


def _split(shape: torch.Size, axis: int) -> tuple[int, int, int]:
    """How many lines lie before, how many numbers along, and how many lines after `axis`."""
    axis %= len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _with(shape: torch.Size, axis: int, length: int) -> list[int]:
    """`shape` with another length of `axis`."""
    found = list(shape)
    found[axis] = length
    return found


def _lanes(lines: Tensor, width: int) -> Tensor:
    """Lines [..., n], padded with zeros to whole runs of `width`, as [width, ..., runs].

    Contiguous by position in the run, because each shift below works on one position of all runs at once.
    """
    padded = torch.nn.functional.pad(lines, (0, -lines.shape[-1] % width))
    return padded.unflatten(-1, (-1, width)).movedim(-1, 0).contiguous()
