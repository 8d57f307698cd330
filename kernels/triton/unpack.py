"""Codes in 16-bit words: where each bit lies, and how a kernel turns a field into a float without converting integers.

A block of columns is cut into `parts(bits)` parts of H columns. Column j of every part lies in word j, so that a kernel
that loads H words unpacks a part with the same shift in every lane, and a word pair feeds a tensor core's operand as
it stands. Bits of a word, lowest first; even parts lie in the low byte, odd parts in the high one:

    4 bits   part 0  part 2 | part 1  part 3          8 bits   part 0 | part 1

3, 5, 6 and 7 bits are planes of 4, 2 and 1 bits, each packed so; the first plane holds the lowest bits.

A field becomes a float by its bits alone (Kim et al., arXiv 2211.10017): below 1024 = 0x6400 the last ten bits of a
half count ones, so `0x6400 | n` is 1024 + n; in bfloat16 `0x4300 | n` is 128 + n for n < 128. One `lop3` masks and
inserts, one `fma` takes the constant off: two instructions for two weights, both exact.
"""

from __future__ import annotations

import triton
import triton.language as tl

PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
MANTISSA = {"fp16": 10, "bf16": 7}
MAGIC = {"fp16": 0x6400, "bf16": 0x4300}


@triton.constexpr_function
def parts(bits: int) -> int:
    """Parts of a block: how many codes of the narrowest plane fill a word."""
    return 16 // PLANES[bits][-1]


@triton.constexpr_function
def tiles(bits: int) -> int:
    """Tiles of [rows, H] words that hold one block."""
    return parts(bits) * bits // 16


@triton.constexpr_function
def places(bits: int, part: int) -> tuple[tuple[int, int, int, int], ...]:
    """Where a part's codes lie: for each plane the tile, the shift in its word, the width, and the bit it becomes."""
    found, tile, bit = [], 0, 0
    for width in PLANES[bits]:
        inside, field = divmod(part, 16 // width)
        found.append((tile + inside, 8 * (field % 2) + width * (field // 2), width, bit))
        tile += parts(bits) * width // 16
        bit += width
    return tuple(found)


@triton.constexpr_function
def _float16_bits(value: float, kind: str) -> int:
    """The bit pattern of a small number, exact in either type."""
    import numpy as np

    if kind == "fp16":
        return int(np.float16(value).view(np.uint16))
    return int(np.float32(value).view(np.uint32)) >> 16


@triton.constexpr_function
def _pair(bits16: int) -> str:
    return f"0x{bits16 << 16 | bits16:08x}"


@triton.constexpr_function
def assembly(bits: int, part: int, kind: str, middle: int) -> str:
    """PTX that turns a pair of words of each plane into a pair of floats `code − middle` of `kind`, fp16 or bf16."""
    spots = places(bits, part)
    if bits == 8 and kind == "bf16":
        return _bytes_to_bf16(spots[0][1], middle)
    lines, scale = [".reg .b32 t, n;", f"mov.b32 n, {_pair(MAGIC[kind])};"], 0
    for number, spot in enumerate(spots):
        _, shift, width, bit = spot  # (Triton 3.6 reads no nested targets)
        source, move = f"${number + 1}", shift - bit
        if len(spots) == 1:  # leave the field where the mantissa has room for it: a fused multiply takes it down
            scale = shift % 8 if shift % 8 + width <= MANTISSA[kind] else 0
            move -= scale
        if move:
            lines.append(f"{'shr' if move > 0 else 'shl'}.b32 t, {source}, {abs(move)};")
            source = "t"
        mask = ((1 << width) - 1) << (bit + scale)
        lines.append(f"lop3.b32 n, {source}, {_pair(mask)}, n, 0xea;")  # (source & mask) | n
    factor, offset = 2.0**-scale, -(2.0 ** MANTISSA[kind] * 2.0**-scale + middle)
    lines += [
        f"mov.b32 t, {_pair(_float16_bits(factor, kind))};",
        f".reg .b32 o; mov.b32 o, {_pair(_float16_bits(offset, kind))};",
        f"fma.rn.{'f16x2' if kind == 'fp16' else 'bf16x2'} $0, n, t, o;",
    ]
    return "{ " + "\n".join(lines) + " }"


@triton.constexpr_function
def _bytes_to_bf16(shift: int, middle: int) -> str:
    """Eight bits do not fit below 128: 2^23 + n in float32 holds them, and the difference is exact in bfloat16."""
    low, high = (0x7540, 0x7542) if shift == 0 else (0x7541, 0x7543)
    return f"""{{ .reg .b32 a, b; .reg .f32 x, y, o;
        mov.b32 o, 0x{_float32_bits(-(2.0**23 + middle)):08x};
        prmt.b32 a, $1, 0x4b000000, 0x{low:x}; prmt.b32 b, $1, 0x4b000000, 0x{high:x};
        mov.b32 x, a; mov.b32 y, b; add.rn.f32 x, x, o; add.rn.f32 y, y, o;
        cvt.rn.bf16x2.f32 $0, y, x; }}"""


@triton.constexpr_function
def _float32_bits(value: float) -> int:
    import numpy as np

    return int(np.float32(value).view(np.uint32))


@triton.constexpr_function
def lookup_assembly(part: int, table: tuple[int, ...]) -> str:
    """PTX that looks a part's 4-bit codes up in 16 half-precision numbers, given by their bits, with byte permutes."""
    low, high = ([sum((table[4 * i + j] >> s & 0xFF) << 8 * j for j in range(4)) for i in range(4)] for s in (0, 8))
    spots = {places(4, p)[0][1] // 4: p for p in range(4)}
    nibble = {p: n for n, p in spots.items()}[part]
    lines = [".reg .b32 s, u, c, v, a, b, l, h, p, q;"]
    for word, result in ((0, "p"), (1, "q")):
        # four selectors at once; a selector's top bit would repeat a sign, so it chooses between two tables instead
        lines += [
            f"shr.b32 s, $1, {16 * word};", "and.b32 u, s, 0x7777;",
            "shr.b32 c, s, 1;", "lop3.b32 c, c, 0x4444, 0x3210, 0xea;",
        ]  # fmt: skip
        for entries, name in ((low, "l"), (high, "h")):
            first, second, third, fourth = (f"0x{entry:08x}" for entry in entries)
            lines += [
                f"mov.b32 a, {first}; mov.b32 b, {second}; prmt.b32 v, a, b, u;",
                f"mov.b32 a, {third}; mov.b32 b, {fourth}; prmt.b32 a, a, b, u; prmt.b32 {name}, v, a, c;",
            ]
        lines.append(f"prmt.b32 {result}, l, h, 0x{(4 + nibble) << 4 | nibble:04x};")
    lines.append("prmt.b32 $0, p, q, 0x5410;")
    return "{ " + "\n".join(lines) + " }"


@triton.constexpr_function
def ASSEMBLY(bits, part, kind, middle, table):
    """The PTX for kernels: arithmetic, or a table's lookup."""
    return lookup_assembly(part, table) if table is not None else assembly(bits, part, kind, middle)


@triton.constexpr_function
def CONSTRAINTS(bits):
    """One register out, one in for each plane."""
    return "=r" + ",r" * len(PLANES[bits])


@triton.jit
def code(words, BITS: tl.constexpr, PART: tl.constexpr):
    """Codes of a part as int16, from the tiles of its block."""
    n = words[0] & 0
    for spot in tl.static_range(len(places(BITS, PART))):
        tile: tl.constexpr = places(BITS, PART)[spot][0]
        shift: tl.constexpr = places(BITS, PART)[spot][1]
        mask: tl.constexpr = (1 << places(BITS, PART)[spot][2]) - 1
        bit: tl.constexpr = places(BITS, PART)[spot][3]
        n |= ((words[tile] >> shift) & mask) << bit
    return n


@triton.jit
def plain(words, table, BITS: tl.constexpr, PART: tl.constexpr, DTYPE: tl.constexpr, MIDDLE: tl.constexpr,
          TABLE: tl.constexpr):  # fmt: skip
    """`level` without assembly, for the interpreter: equal bits."""
    n = code(words, BITS, PART)
    if TABLE is not None:
        return tl.load(table + n)
    if tl.float16 == DTYPE:
        return (n | 0x6400).to(tl.float16, bitcast=True) - (1024.0 + MIDDLE)
    if BITS == 8:
        return ((n.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + MIDDLE)).to(tl.bfloat16)
    return (n | 0x4300).to(tl.bfloat16, bitcast=True) - (128.0 + MIDDLE)


@triton.jit
def level(words, table, BITS: tl.constexpr, PART: tl.constexpr, DTYPE: tl.constexpr, MIDDLE: tl.constexpr,
          TABLE: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """A part's codes − MIDDLE, or their entries in the table, [rows, H] of DTYPE.

    words: the block's tiles, a tuple. TABLE: the table's bits, None for integers; `table` points to the same numbers.
    """
    if not ASM:
        return plain(words, table, BITS, PART, DTYPE, MIDDLE, TABLE)
    kind: tl.constexpr = "fp16" if tl.float16 == DTYPE else "bf16"
    asm: tl.constexpr = ASSEMBLY(BITS, PART, kind, MIDDLE, TABLE)
    spots: tl.constexpr = places(BITS, PART)
    given = (words[spots[0][0]],)
    if len(spots) > 1:
        given = given + (words[spots[1][0]],)  # noqa: RUF005
    if len(spots) > 2:
        given = given + (words[spots[2][0]],)  # noqa: RUF005
    return tl.inline_asm_elementwise(asm, CONSTRAINTS(BITS), given, dtype=DTYPE.value, is_pure=True, pack=2)
