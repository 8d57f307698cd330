"""A vector processor of 256 bits, instruction by instruction: one block of a matrix product in two layouts.

A register is a list of its lanes: 32 bytes, 16 words of 16 bits, 8 integers of 32 bits or 8 floats. `program` writes
what a kernel does for eight rows by 32·B columns of 4-bit codes, `execute` runs it exactly: saturation, wrapping, and
one rounding to float32 for each operation. Instructions carry x86's names (Intel's manual, volume 2).

rows: each row's codes are contiguous, as in GGUF's Q4_0 (byte i of a block holds columns i and i + 16).
tiles: `kernels/cpu/tiles.h`, of which eight rows fill a register: byte 4·r + i of each belongs to row r.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qlab.errors import QlabError

ROWS, COLUMNS, BYTES = 8, 32, 32
LAYOUTS, SETS = ("rows", "tiles"), ("AVX2", "VNNI")
KINDS = ("load", "unpack", "multiply", "add", "scale", "across")
"""What an instruction is for; `across` moves numbers between lanes in order to add them."""
INT16_MAX = 2**15 - 1
Register = list[Any]


def wrap(x: int, bits: int) -> int:
    """x as a signed integer of so many bits keeps it: what does not fit falls away."""
    half = 1 << (bits - 1)
    return (x + half) % (1 << bits) - half


def single(x: float) -> float:
    """x rounded to float32."""
    if not math.isfinite(x):
        return x
    try:
        return float(struct.unpack("f", struct.pack("f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


def maddubs(u: Sequence[int], s: Sequence[int]) -> list[int]:
    """vpmaddubsw: unsigned bytes times signed ones, neighbours added; sums are held at the ends of 16 bits."""
    sums = [u[i] * s[i] + u[i + 1] * s[i + 1] for i in range(0, len(u), 2)]
    return [max(-INT16_MAX - 1, min(INT16_MAX, x)) for x in sums]


def madd(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """vpmaddwd: 16-bit products, neighbours added to 32 bits."""
    return [wrap(a[i] * b[i] + a[i + 1] * b[i + 1], 32) for i in range(0, len(a), 2)]


def dpbusd(acc: Sequence[int], u: Sequence[int], s: Sequence[int]) -> list[int]:
    """vpdpbusd: four products of unsigned and signed bytes added to each 32-bit lane; nothing in between is cut."""
    return [wrap(acc[k] + sum(u[4 * k + i] * s[4 * k + i] for i in range(4)), 32) for k in range(len(acc))]


def add_words(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """vpaddw: 16-bit sums; a sum that does not fit wraps around."""
    return [wrap(x + y, 16) for x, y in zip(a, b, strict=True)]


def shift_words(a: Sequence[int], n: int) -> list[int]:
    """vpsrlw on bytes: each pair, as one 16-bit number, shifted right by n; bits cross into the lower byte."""
    words = [(a[i] | a[i + 1] << 8) >> n for i in range(0, len(a), 2)]
    return [byte for word in words for byte in (word & 255, word >> 8)]


@dataclass(frozen=True)
class Instruction:
    """One instruction. reads: registers; at: where in its memory a load begins, or the bits of a shift.

    rows: the row whose numbers each of the eight lanes of the result holds. alive: lanes from the first whose numbers
    it uses, of those it reads or writes.
    """

    name: str
    operation: str
    kind: str
    out: str
    reads: tuple[str, ...] = ()
    at: int = 0
    rows: tuple[int, ...] = ()
    alive: int = 8


@dataclass(frozen=True)
class Memory:
    """What a program reads. codes [rows][columns] 0 … 15, inputs [columns] of int8, scales [rows][blocks].

    one: the inputs' scale of each block.
    """

    codes: Sequence[Sequence[int]]
    inputs: Sequence[int]
    scales: Sequence[Sequence[float]]
    one: Sequence[float]

    def __post_init__(self) -> None:
        """QlabError for shapes that do not fit."""
        columns = len(self.inputs)
        if columns % COLUMNS or not columns:
            raise QlabError(f"{columns} columns are no multiple of {COLUMNS}: a block of the kernels is {COLUMNS} wide")
        if len(self.codes) != ROWS or any(len(row) != columns for row in self.codes):
            raise QlabError(f"codes must be {ROWS} rows of {columns}")
        if any(len(row) != self.blocks for row in (*self.scales, self.one)) or len(self.scales) != ROWS:
            raise QlabError(f"scales must be {ROWS} rows of {self.blocks}, and one scale of the inputs a block")

    @property
    def blocks(self) -> int:
        """Blocks of 32 columns."""
        return len(self.inputs) // COLUMNS


def packed(codes: Sequence[Sequence[int]], layout: str) -> list[int]:
    """The bytes in which eight rows of 4-bit codes lie."""
    blocks = range(len(codes[0]) // COLUMNS)
    if layout == "rows":
        return [row[32 * b + i] | row[32 * b + i + 16] << 4 for row in codes for b in blocks for i in range(16)]
    quads = [(b, v) for b in blocks for v in range(4)]  # a vector holds columns 8v … 8v + 7 of its block
    return [
        codes[r][32 * b + 8 * v + i] | codes[r][32 * b + 8 * v + 4 + i] << 4
        for b, v in quads
        for r in range(ROWS)
        for i in range(4)
    ]


def program(layout: str, isa: str, blocks: int = 1) -> list[Instruction]:
    """What eight rows by 32·blocks columns take; the codes' zero, 8, is taken off through the sums of the inputs."""
    if layout not in LAYOUTS or isa not in SETS:
        raise QlabError(f"no program for {layout} with {isa}: choose of {', '.join(LAYOUTS)} and {', '.join(SETS)}")
    return _by_tiles(isa, blocks) if layout == "tiles" else _by_rows(isa, blocks)


def _by_rows(isa: str, blocks: int) -> list[Instruction]:
    """One row after the other: 32 columns of a row fill the lanes."""
    found: list[Instruction] = []
    for r in range(ROWS):
        own = (r,) * 8

        def do(name: str, operation: str, kind: str, out: str, *reads: str, at: int = 0, alive: int = 8) -> None:
            found.append(Instruction(name, operation, kind, out, reads, at, own, alive))  # noqa: B023

        do("vxorps", "zeros", "load", "total")
        for b in range(blocks):
            do("vmovdqu", "half", "load", "packed", at=16 * (r * blocks + b), alive=4)
            do("vpsrlw", "shift", "unpack", "high", "packed", at=4, alive=4)
            do("vinserti128", "join", "unpack", "codes", "packed", "high")
            do("vpand", "nibbles", "unpack", "codes", "codes")
            do("vmovdqu", "inputs", "load", "inputs", at=32 * b)
            do("vmovdqa", "starts", "load", "sum", at=b)
            if isa == "VNNI":
                do("vpdpbusd", "dpbusd", "multiply", "sum", "sum", "codes", "inputs")
            else:
                do("vpmaddubsw", "maddubs", "multiply", "pairs", "codes", "inputs")
                do("vpmaddwd", "madd", "multiply", "fours", "pairs")
                do("vpaddd", "add", "add", "sum", "sum", "fours")
            do("vcvtdq2ps", "convert", "scale", "number", "sum")
            do("vcvtph2ps", "scale of a row", "scale", "scale", at=r * blocks + b, alive=1)
            do("vmulss", "times input scale", "scale", "scale", "scale", at=b, alive=1)
            do("vbroadcastss", "spread", "scale", "scale", "scale")
            do("vfmadd231ps", "multiply and add", "scale", "total", "number", "scale", "total")
        do("vextractf128", "upper half", "across", "other", "total")
        do("vaddps", "add floats", "across", "total", "total", "other", alive=4)
        do("vmovhlps", "upper quarter", "across", "other", "total", alive=4)
        do("vaddps", "add floats", "across", "total", "total", "other", alive=2)
        do("vmovshdup", "odd lanes", "across", "other", "total", alive=2)
        do("vaddss", "add first", "across", "total", "total", "other", alive=1)
        do("vmovss", "store first", "load", "y", "total", at=r, alive=1)
    return found


def _by_tiles(isa: str, blocks: int) -> list[Instruction]:
    """All eight rows at once: a lane is a row, and takes four columns at a time."""
    found: list[Instruction] = []

    def do(name: str, operation: str, kind: str, out: str, *reads: str, at: int = 0) -> None:
        found.append(Instruction(name, operation, kind, out, reads, at, tuple(range(ROWS))))

    do("vxorps", "zeros", "load", "total")
    for b in range(blocks):
        do("vpbroadcastd", "start", "load", "sum", at=b)
        for j in range(8):
            if j % 2 == 0:
                do("vmovdqu", "whole", "load", "packed", at=32 * (4 * b + j // 2))
            else:
                do("vpsrlw", "shift", "unpack", "codes", "packed", at=4)
            do("vpand", "nibbles", "unpack", "codes", "codes" if j % 2 else "packed")
            do("vpbroadcastd", "four inputs", "load", "inputs", at=32 * b + 4 * j)
            if isa == "VNNI":
                do("vpdpbusd", "dpbusd", "multiply", "sum", "sum", "codes", "inputs")
            else:
                do("vpmaddubsw", "maddubs", "multiply", "pairs" if j == 0 else "products", "codes", "inputs")
                if j:
                    do("vpaddw", "add words", "add", "pairs", "pairs", "products")
        if isa == "AVX2":
            do("vpmaddwd", "madd", "multiply", "fours", "pairs")
            do("vpaddd", "add", "add", "sum", "sum", "fours")
        do("vcvtdq2ps", "convert", "scale", "number", "sum")
        do("vcvtph2ps", "scales of rows", "scale", "scale", at=b)
        do("vmulps", "times input scale", "scale", "scale", "scale", at=b)
        do("vfmadd231ps", "multiply and add", "scale", "total", "number", "scale", "total")
    do("vmovups", "store", "load", "y", "total")
    return found


def execute(instructions: Sequence[Instruction], memory: Memory, layout: str) -> list[Register]:
    """The result of each instruction, in order; `y` is the register that the stores fill."""
    data, x, y = packed(memory.codes, layout), list(memory.inputs), [0.0] * ROWS
    registers: dict[str, Register] = {"y": y}
    results = []
    for step in instructions:
        result = _result(step, [registers[name] for name in step.reads], data, x, memory, registers["y"])
        registers[step.out] = result
        results.append(result)
    return results


def _result(
    step: Instruction, reads: list[Register], data: list[int], x: list[int], memory: Memory, y: Register
) -> Register:
    """What one instruction leaves in its register."""
    at, first = step.at, reads[0] if reads else []
    match step.operation:
        case "zeros":
            return [0.0] * 8
        case "half":
            return data[at : at + 16] + [0] * 16
        case "whole":
            return data[at : at + BYTES]
        case "inputs":
            return x[at : at + BYTES]
        case "four inputs":
            return x[at : at + 4] * 8
        case "start":  # -8 · the sum of the block's inputs
            return [-8 * sum(x[32 * at : 32 * at + 32])] * 8
        case "starts":  # the same in eight parts
            return [-8 * sum(x[32 * at + 4 * k : 32 * at + 4 * k + 4]) for k in range(8)]
        case "shift":
            return shift_words(first, at)
        case "join":
            return first[:16] + reads[1][:16]
        case "nibbles":
            return [byte & 15 for byte in first]
        case "maddubs":
            return list(maddubs(first, reads[1]))
        case "madd":
            return madd(first, [1] * 16)
        case "dpbusd":
            return dpbusd(first, reads[1], reads[2])
        case "add words":
            return add_words(first, reads[1])
        case "add":
            return [wrap(a + b, 32) for a, b in zip(first, reads[1], strict=True)]
        case _:
            return _floats(step, reads, memory, y)


def _floats(step: Instruction, reads: list[Register], memory: Memory, y: Register) -> Register:
    """The instructions whose result is eight floats."""
    at, first = step.at, reads[0] if reads else []
    match step.operation:
        case "convert":
            return [single(a) for a in first]
        case "scale of a row":
            row, block = divmod(at, memory.blocks)
            return [memory.scales[row][block], *[0.0] * 7]
        case "scales of rows":
            return [row[at] for row in memory.scales]
        case "times input scale":
            return [single(a * memory.one[at]) for a in first]
        case "spread":
            return [first[0]] * 8
        case "multiply and add":
            return [single(a * b + c) for a, b, c in zip(*reads, strict=True)]
        case "upper half":
            return first[4:] + [0.0] * 4
        case "upper quarter":
            return first[2:4] + first[2:4] + [0.0] * 4
        case "odd lanes":
            return [first[1], first[1], first[3], first[3]] + [0.0] * 4
        case "add floats":
            return [single(a + b) for a, b in zip(first[:4], reads[1][:4], strict=True)] + [0.0] * 4
        case "add first":
            return [single(first[0] + reads[1][0]), *first[1:]]
        case "store first":
            return [first[0] if r == at else old for r, old in enumerate(y)]
        case "store":
            return list(first)
    raise QlabError(f"no instruction {step.operation!r}")


def multiply(memory: Memory, layout: str, isa: str) -> list[float]:
    """The eight rows' products, as the program of this layout and these instructions computes them."""
    return [float(a) for a in execute(program(layout, isa, memory.blocks), memory, layout)[-1]]


def counts(layout: str, isa: str, columns: int, weights: int = 512) -> dict[str, float]:
    """Instructions of each kind for so many weights, in rows of `columns` columns."""
    blocks = columns // COLUMNS
    kinds = Counter(step.kind for step in program(layout, isa, blocks))
    return {kind: kinds[kind] * weights / (ROWS * COLUMNS * blocks) for kind in KINDS}


def safe_additions(bits: int) -> int:
    """How many results of maddubs of codes of so many bits with int8 inputs (±127) a 16-bit lane surely holds."""
    return INT16_MAX // (2 * 127 * (2**bits - 1))
