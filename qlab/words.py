"""Codes of 1 to 8 bits in 32-bit words: where each bit lies, and which operations make a float of them. Two layouts.

stream: code after code without a gap, as `qlab.bits` packs them: a code may straddle two words.
planes: one row of the GPU kernels' (`kernels/triton/unpack.py`): 5 bits are a plane of 4 and one of 1, and two codes
lie at the same place in the two halves of a word, so that every operation works on both.

Operations are a GPU's: a shift, logic of up to three inputs, a sum in half precision. `0x6400 | n` is the float
1024 + n (Kim et al., arXiv 2211.10017), so that no integer is converted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qlab.errors import QlabError

RUN = 32
"""Codes in a run: at b bits they fill b words in either layout."""
LAYOUTS = ("stream", "planes")
WORD, HALF = 32, 16
MAGIC, BASE = 0x6400, 1024
"""Half precision's 1024, whose last ten bits count ones, and its value."""


@dataclass(frozen=True)
class Field:
    """Bits [shift, shift + width) of a word, which are bits [bit, bit + width) of a code."""

    word: int
    shift: int
    width: int
    bit: int


@dataclass(frozen=True)
class Operation:
    """What is done, in words, and what comes out: 32 bits, or at the end the floats code − 2^(bits − 1)."""

    text: str
    result: int | tuple[int, ...]


def planes(bits: int) -> tuple[int, ...]:
    """Widths of a code's planes, the low bits first: 7 is 4, 2 and 1."""
    if not 1 <= bits <= 8:
        raise QlabError(f"codes of {bits} bits: they have 1 to 8")
    return tuple(width for width in (8, 4, 2, 1) if bits & width)


def fields(layout: str, bits: int, code: int) -> list[Field]:
    """Where code number `code` of a run lies, its low bits first."""
    if layout not in LAYOUTS or not 0 <= code < RUN:
        raise QlabError(f"code {code} of layout {layout!r}: codes are 0 … {RUN - 1}, layouts {' and '.join(LAYOUTS)}")
    return _stream(bits, code) if layout == "stream" else _planes(bits, code)


def _stream(bits: int, code: int) -> list[Field]:
    word, shift = divmod(code * bits, WORD)
    here = min(bits, WORD - shift)
    found = [Field(word, shift, here, 0)]
    return found if here == bits else [*found, Field(word + 1, 0, bits - here, here)]


def _planes(bits: int, code: int) -> list[Field]:
    columns = RUN * planes(bits)[-1] // HALF  # of a part; code j of each part lies in half word j
    part, j = divmod(code, columns)
    found, first, bit = [], 0, 0
    for width in planes(bits):
        tile, slot = divmod(part, HALF // width)
        half = first + tile * columns + j
        found.append(Field(half // 2, HALF * (half % 2) + 8 * (slot % 2) + width * (slot // 2), width, bit))
        first, bit = first + RUN * width // HALF, bit + width
    return found


def pack(layout: str, bits: int, codes: Sequence[int]) -> list[int]:
    """The `bits` words of 32 codes, as unsigned integers."""
    words = [0] * sum(planes(bits))
    for i, code in enumerate(codes):
        for f in fields(layout, bits, i):
            words[f.word] |= (code >> f.bit & 2**f.width - 1) << f.shift
    return words


def read(layout: str, bits: int, words: Sequence[int], code: int) -> list[Operation]:
    """The operations that make a float of a code, and in planes of its neighbour as well."""
    found, register = (_read_stream if layout == "stream" else _read_planes)(bits, words, code)
    halves = [register] if layout == "stream" else [register & 2**HALF - 1, register >> HALF]
    middle = BASE + 2 ** (bits - 1)
    floats = tuple(half - MAGIC + BASE - middle for half in halves)
    return [*found, Operation(f"− {middle} in fp16{', both at once' if len(halves) > 1 else ''}", floats)]


def _read_stream(bits: int, words: Sequence[int], code: int) -> tuple[list[Operation], int]:
    low, *high = fields("stream", bits, code)
    found, value = _shifted([], words[low.word], f"word {low.word}", low.shift)
    mask, masked = 2**bits - 1, ""
    for f in high:  # word, word, mask and MAGIC are four inputs: one more operation
        found, other = _shifted(found, words[f.word], f"word {f.word}", -f.bit)
        value = (value | other) & mask
        found = [*found, Operation(f"both together & {mask:#x}", value)]
    if not high and low.shift + bits < WORD:  # at a word's upper end nothing is left to cut off
        masked = f"& {mask:#x} "
    value = value & mask | MAGIC
    return [*found, Operation(f"{masked}| {MAGIC:#x}", value)], value


def _read_planes(bits: int, words: Sequence[int], code: int) -> tuple[list[Operation], int]:
    found: list[Operation] = []
    both = 2**HALF + 1  # the same in either half
    register, before = MAGIC * both, f"{MAGIC * both:#x}"
    for f in fields("planes", bits, code):
        found, value = _shifted(found, words[f.word], f"word {f.word}", f.shift % HALF - f.bit)
        mask = (2**f.width - 1 << f.bit) * both
        register |= value & mask
        found = [*found, Operation(f"& {mask:#010x} | {before}", register)]
        before = "the last"
    return found, register


def _shifted(before: list[Operation], word: int, name: str, right: int) -> tuple[list[Operation], int]:
    """`word` moved right by so many bits, or left, and the operation after those before; none for no bits."""
    if not right:
        return before, word
    value = word >> right if right > 0 else word << -right & 2**WORD - 1
    return [*before, Operation(f"{name} {'>>' if right > 0 else '<<'} {abs(right)}", value)], value


def operations(layout: str, bits: int) -> float:
    """Operations for each code of a run, on average."""
    served = {"stream": 1, "planes": 2}[layout]
    return sum(len(read(layout, bits, [0] * bits, code)) for code in range(RUN)) / RUN / served


def straddling(layout: str, bits: int) -> list[int]:
    """The codes that lie in two words of a stream; in planes none does."""
    return [code for code in range(RUN) if layout == "stream" and len(fields(layout, bits, code)) > 1]
