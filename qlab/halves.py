"""Eight 4-bit codes of a 32-bit word become float16, instruction by instruction, in two ways: by magic and plainly.

A register is 32 bits: an integer, or a pair of float16, the low half first. `program` lists what a kernel does for a
word, `execute` runs it exactly, with one rounding to float16 where the machine rounds. Names are those of NVIDIA's
machine code. Nibble k of the word (bits 4k … 4k + 3) is code k; both ways end with the same four pairs, codes k and
k + 4, as a tensor core's operand wants them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

WAYS = ("magic", "plain")
MAGIC = 0x6400  # 1024 in float16: below it the mantissa's ten bits count ones
MIDDLE = 8  # a code q stands for q − 8
WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Instruction:
    """One instruction: register `out` from registers `reads`, with constants.

    operation: shift (bits), lop (mask, insert), fma (factor, addend), mul, and (mask), sub (number), convert, pair.
    codes: those that the result is about.
    """

    name: str
    operation: str
    out: str
    reads: tuple[str, ...]
    constants: tuple[float, ...] = ()
    codes: tuple[int, ...] = ()


def half(bits: int) -> float:
    """The number of 16 bits of float16."""
    return float(struct.unpack("<e", struct.pack("<H", bits & 0xFFFF))[0])


def to_half(x: float) -> int:
    """The 16 bits of x rounded to float16, half to even; infinite where it is too large."""
    try:
        return int(struct.unpack("<H", struct.pack("<e", float(x)))[0])
    except OverflowError:
        return 0xFC00 if x < 0 else 0x7C00


def pair(low: int, high: int) -> int:
    """Two 16-bit halves in a register."""
    return (high & 0xFFFF) << 16 | low & 0xFFFF


def pack(codes: Sequence[int]) -> int:
    """Eight codes 0 … 15 as a word, code 0 in the lowest bits."""
    return sum((code & 0xF) << 4 * k for k, code in enumerate(codes))


def program(way: str) -> list[Instruction]:
    """What it takes to make eight scaled weights of a word, in order."""
    return _magic() if way == "magic" else _plain()


def execute(steps: Sequence[Instruction], word: int, scale: float) -> list[int]:
    """The register that each instruction writes; the scale is first rounded to float16."""
    registers = {"word": word & WORD, "scale": pair(to_half(scale), to_half(scale))}
    written = []
    for step in steps:
        registers[step.out] = _result(step, [registers[name] for name in step.reads])
        written.append(registers[step.out])
    return written


def weights(way: str, word: int, scale: float) -> list[float]:
    """The eight weights scale · (code − 8), rounded to float16."""
    steps = program(way)
    found = [0.0] * 8
    for step, value in zip(steps, execute(steps, word, scale), strict=True):
        if step.operation == "mul":
            for place, code in enumerate(step.codes):
                found[code] = half(value >> 16 * place)
    return found


def _magic() -> list[Instruction]:
    steps, source = [], "word"
    for k in range(4):
        if k == 2:
            steps.append(Instruction("SHF", "shift", "shifted", ("word",), (8,), (2, 3, 6, 7)))
            source = "shifted"
        room, factor = 4 * (k % 2), 16.0 ** -(k % 2)  # odd codes stay where they are, 16 times as large
        mask, insert = pair(0xF << room, 0xF << room), pair(MAGIC, MAGIC)
        steps += [
            Instruction("LOP3", "lop", f"pair {k}", (source,), (mask, insert), (k, k + 4)),
            Instruction("HFMA2", "fma", f"pair {k}", (f"pair {k}",), (factor, -1024 * factor - MIDDLE), (k, k + 4)),
            Instruction("HMUL2", "mul", f"pair {k}", (f"pair {k}", "scale"), (), (k, k + 4)),
        ]
    return steps


def _plain() -> list[Instruction]:
    steps = []
    for k in range(4):
        for code, out in ((k, "a"), (k + 4, "b")):
            if code:
                steps.append(Instruction("SHF", "shift", out, ("word",), (4 * code,), (code,)))
            steps += [
                Instruction("LOP3", "and", out, (out if code else "word",), (0xF,), (code,)),
                Instruction("IADD3", "sub", out, (out,), (MIDDLE,), (code,)),
                Instruction("I2F", "convert", out, (out,), (), (code,)),
            ]
        steps += [
            Instruction("PRMT", "pair", f"pair {k}", ("a", "b"), (), (k, k + 4)),
            Instruction("HMUL2", "mul", f"pair {k}", (f"pair {k}", "scale"), (), (k, k + 4)),
        ]
    return steps


def _result(step: Instruction, values: Sequence[int]) -> int:
    """The register an instruction writes, from those it reads."""
    a = values[0]
    match step.operation:
        case "shift":
            return a >> int(step.constants[0])
        case "lop":
            return a & int(step.constants[0]) | int(step.constants[1])
        case "and":
            return a & int(step.constants[0])
        case "sub":
            return (a - int(step.constants[0])) & WORD
        case "convert":
            return to_half(a - (1 << 32) if a >> 31 else a)
        case "pair":
            return pair(a, values[1])
        case "fma":
            factor, addend = step.constants
            return pair(*(to_half(half(a >> s) * factor + addend) for s in (0, 16)))
        case _:
            return pair(*(to_half(half(a >> s) * half(values[1] >> s)) for s in (0, 16)))
