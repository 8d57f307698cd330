"""Exercise of lesson 14: codes of any width out of a dense stream of 32-bit words."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from qlab.exercises.core import exercise

WORD = 32


def _words(codes: list[int], bits: int) -> Tensor:
    """The stream of some codes, as int32 words."""
    stream = sum(code << i * bits for i, code in enumerate(codes))
    count = -(-len(codes) * bits // WORD)
    return torch.frombuffer(bytearray(stream.to_bytes(4 * count, "little")), dtype=torch.int32)


def _cases(g: Generator) -> Iterator[tuple[str, tuple[Tensor, int, int]]]:
    def rand(count: int, bits: int) -> list[int]:
        return torch.randint(2**bits, (count,), generator=g).tolist()

    yield "4 bits, eight codes in one word", (_words([1, 2, 3, 4, 5, 6, 7, 0], 4), 4, 8)
    yield "3 bits, code 10 straddles", (_words([0] * 10 + [0b101] + [0] * 21, 3), 3, 32)
    yield "4 bits, the top bit of a word set", (_words([0] * 7 + [15], 4), 4, 8)
    yield "3 bits, all codes 7", (_words([7] * 32, 3), 3, 32)
    yield "8 bits, all codes 255", (_words([255] * 8, 8), 8, 8)
    for bits in (5, 6, 7):
        yield f"{bits} bits, random", (_words(rand(64, bits), bits), bits, 64)
    yield "3 bits, 33 codes: the last word holds one", (_words(rand(33, 3), 3), 3, 33)
    yield "5 bits, one code alone", (_words([19], 5), 5, 1)
    yield "1 bit, random", (_words(rand(70, 1), 1), 1, 70)
    yield "2 bits, random", (_words(rand(48, 2), 2), 2, 48)


@exercise("packing.read_stream", _cases)
def read_stream(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes uint8 of a dense stream in int32 `words`: one long integer, cut into pieces of `bits`.

    In Python's integers, so that it shares nothing with an answer in whole tensors. An attempt may return another
    dtype: exercises judge values.
    """
    stream = sum((word & 2**WORD - 1) << WORD * i for i, word in enumerate(words.tolist()))
    return torch.tensor([stream >> i * bits & 2**bits - 1 for i in range(count)], dtype=torch.uint8)
