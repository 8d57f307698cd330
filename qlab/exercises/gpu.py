"""Exercises of lesson 15: Triton kernels, run in its interpreter and judged on the numbers they write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from qlab.errors import QlabError
from qlab.exercises.core import Verdict, check, exercise

BLOCK = 16  # rows, tokens and columns of a tile in the third puzzle
UNWRITTEN = float("nan")


def puzzle(name: str, kernel: Any) -> Verdict:
    """The verdict on a Triton kernel: "unpack", "magic" or "split"."""
    if name not in _LAUNCHES:
        raise QlabError(f"unknown puzzle {name!r}: use one of {', '.join(_LAUNCHES)}")
    if type(kernel).__name__ != "InterpretedFunction":
        raise QlabError("the kernel is not interpreted: decorate it with @triton.jit, and set TRITON_INTERPRET=1 "
                        "before triton is imported")  # fmt: skip
    launch = _LAUNCHES[name]
    return check(f"gpu.{name}", lambda *given: launch(kernel, *given))


def _run(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launch it; what went wrong inside comes out as it was raised."""
    from triton.runtime.errors import InterpreterError

    try:
        kernel[grid](*arguments, **constants)
    except InterpreterError as error:
        raise (error.__cause__ or error) from None


def _words(g: Generator, count: int) -> Tensor:
    return torch.randint(-(2**31), 2**31, (count,), generator=g).to(torch.int32)


def _unpack_cases(g: Generator) -> Iterator[tuple[str, tuple[Tensor]]]:
    yield "code k is k", (torch.tensor([0x76543210], dtype=torch.int32),)
    yield "one code alone, the last", (torch.tensor([0x70000000], dtype=torch.int32),)
    yield "the highest bit set, a negative word", (torch.tensor([-(2**31)], dtype=torch.int32),)
    yield "all codes 15", (torch.full((3,), -1, dtype=torch.int32),)
    yield "random words", (_words(g, 16),)
    yield "a number of words that is no power of two", (_words(g, 5),)


@exercise("gpu.unpack", _unpack_cases)
def unpack(words: Tensor) -> Tensor:
    """Codes int32 [N, 8] of words int32 [N], code k in bits 4k … 4k + 3: from the words' digits in hexadecimal."""
    digits = [f"{word & 0xFFFFFFFF:08x}"[::-1] for word in words.tolist()]
    return torch.tensor([[int(digit, 16) for digit in row] for row in digits], dtype=torch.int32)


def _launch_unpack(kernel: Any, words: Tensor) -> Tensor:
    out = torch.full((len(words), 8), -1, dtype=torch.int32)
    _run(kernel, (len(words),), words, out)
    return out


def _magic_cases(g: Generator) -> Iterator[tuple[str, tuple[Tensor]]]:
    every = torch.arange(256, dtype=torch.int16)
    yield "codes 0 … 15 in the higher half of the byte", ((every[:16] << 4),)
    yield "the lower half set, too", ((every[:16] << 4) + 15,)
    yield "bits above the byte set", ((every[:16] << 4) + 0x7F00,)
    yield "negative words", ((every[:16] << 4) - 0x8000,)
    yield "random words", (torch.randint(-(2**15), 2**15, (16,), generator=g).to(torch.int16),)


@exercise("gpu.magic", _magic_cases)
def magic(words: Tensor) -> Tensor:
    """Codes n of bits 4 … 7 of int16 words [16] as float16 1024 + 16·n, by arithmetic alone."""
    return (1024 + 16 * (words.to(torch.int32) % 256 // 16)).half()


def _launch_magic(kernel: Any, words: Tensor) -> Tensor:
    out = torch.full((16,), UNWRITTEN, dtype=torch.float16)
    _run(kernel, (1,), words, out)
    return out


def _split_cases(g: Generator) -> Iterator[tuple[str, tuple[Tensor, Tensor, int]]]:
    def rand(K: int) -> tuple[Tensor, Tensor]:
        X, W = (torch.randint(-8, 8, (BLOCK, K), generator=g).half() for _ in range(2))
        return X, W  # sums of small integers: exact in any order

    yield "one share", (*rand(64), 1)
    yield "four shares of one block each", (*rand(64), 4)
    yield "two shares of three blocks", (*rand(96), 2)
    yield "five blocks for three shares: the last has one", (*rand(80), 3)
    yield "more shares than blocks: the last have none", (*rand(32), 4)


@exercise("gpu.split", _split_cases)
def split(X: Tensor, W: Tensor, shares: int) -> Tensor:
    """Partial sums float32 [shares, 16, 16] of X [16, K] · Wᵀ, a run of ceil(blocks / shares) blocks of 16 each."""
    out = torch.zeros(shares, BLOCK, BLOCK)
    each = -(-X.shape[1] // BLOCK // shares) * BLOCK
    for s in range(shares):
        columns = slice(s * each, (s + 1) * each)
        out[s] = X[:, columns].float() @ W[:, columns].float().T
    return out


def _launch_split(kernel: Any, X: Tensor, W: Tensor, shares: int) -> Tensor:
    out = torch.full((shares, BLOCK, BLOCK), UNWRITTEN)
    _run(kernel, (shares,), X, W, out, X.shape[1], SPLIT=shares)
    return out


_LAUNCHES: dict[str, Callable[..., Tensor]] = {
    "unpack": _launch_unpack, "magic": _launch_magic, "split": _launch_split,
}  # fmt: skip
