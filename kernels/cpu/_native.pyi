"""What the compiled module offers. Arrays are contiguous and on the CPU, NumPy's or torch's; nothing is copied or kept.

Everywhere: TypeError naming what has another dtype or layout, ValueError for shapes that do not fit and unknown names.
A matrix of tiles is `format` (of `formats`), codes uint8 [tiles, blocks of 32 columns, 64 * bits], scale float16 or
float32 [tiles, groups, 16], offset [tiles, groups, 16] (zero points uint8, minima float16, or None), sub uint8
[tiles, groups, scales and minima, 16] or None, group (blocks that share a scale) and rows; `tiles.h` draws it.
"""

from typing import Any

def features() -> list[str]:
    """The instruction sets this processor offers, such as `avx2`; the kernels choose among them at run time."""

def read_sum(array: Any, threads: int = 1) -> int:
    """Sum of the 64-bit words of a contiguous 1-D uint8 `array`, modulo 2**64; trailing bytes count one by one.

    It does nothing but read, so its speed is the ceiling of every kernel that is bound by memory.
    Raises TypeError for another dtype or layout, ValueError for an empty array or fewer than one thread.
    """

def block_types() -> list[str]:
    """The tensor types of GGUF that `encode` and `decode` know."""

def encode(type: str, W: Any, out: Any, importance: Any = None, threads: int = 1, isa: str = "") -> bool:
    """Write blocks of `W` float32 [rows, row] to `out` uint8 [rows, bytes of a row], by llama.cpp's own search.

    importance: float32 [row]. isa: one of `isas`, the best by default; all write the same bytes, whatever the number of
    threads. False, and nothing of use in `out`, where a number or a scale is NaN, infinite or too large.
    Raises TypeError for another dtype or layout, ValueError for shapes that do not fit and names that are not known.
    """

def decode(type: str, data: Any, out: Any, threads: int = 1) -> None:
    """Write the numbers of blocks `data` uint8 [rows, bytes of a row] to `out` float32 [rows, row].

    Raises what `encode` raises.
    """

def pack_bits(codes: Any, bits: int, out: Any, threads: int = 1) -> bool:
    """Write `codes` uint8 [outer, n, inner] along their middle axis to `out` int32 [outer, ceil(n * bits / 32), inner].

    Code i of a line occupies the bits [i * bits, (i + 1) * bits) of its little-endian stream; what is left is zero.
    False, and nothing of use in `out`, where a code has more bits.
    """

def unpack_bits(words: Any, bits: int, out: Any, threads: int = 1) -> None:
    """Write the codes of `words` int32 [outer, ceil(n * bits / 32), inner] to `out` uint8 [outer, n, inner]."""

def formats() -> dict[str, dict[str, Any]]:
    """The formats that have kernels; of each bits, table, super, span, extra ("none", "zero", "min") and nibbles."""

def floats() -> list[str]:
    """The formats of matrices that are not quantized: codes are the bytes of [tiles, columns, 16], all else None."""

def isas() -> list[str]:
    """The instruction sets whose kernels this processor runs, the best first: avx512, avx2 or neon, and scalar."""

def isa(name: str = "") -> str:
    """The one of that name; of the empty name QLAB_CPU_ISA, or else the best. ValueError if it does not run here."""

def tile(codes: Any, bits: int, out: Any, threads: int = 1) -> None:
    """Write `codes` uint8 [rows, columns], a multiple of 32 columns, to the tiles `out`; missing rows are zeros."""

def untile(tiles: Any, first: int, out: Any, threads: int = 1) -> None:
    """Write the codes of rows `first`, a multiple of 16, and following to `out` uint8 [rows, columns]."""

def dequantize(
    format: str, codes: Any, scale: Any, offset: Any, sub: Any, group: int, rows: int, first: int, out: Any,
    threads: int = 1,
) -> None:  # fmt: skip
    """Write the numbers of rows `first`, a multiple of 16, and following to `out` float32 [some rows, columns]."""

def dequantize_rows(
    format: str, codes: Any, scale: Any, offset: Any, sub: Any, group: int, rows: int, ids: Any, out: Any,
    threads: int = 1,
) -> None:  # fmt: skip
    """Write the numbers of the rows `ids` int64 [n] to `out` float32 [n, columns]; IndexError for one that is not."""

def multiply(
    format: str, codes: Any, scale: Any, offset: Any, sub: Any, group: int, rows: int, x: Any, y: Any,
    half: bool = False, threads: int = 1, isa: str = "",
) -> None:  # fmt: skip
    """Write x · Wᵀ to `y` float32 [tokens, rows], of `x` float32 [tokens, columns] rounded to 8 bits by block.

    half: blocks of 32 inputs have their scale in float16. A NaN or an infinity makes its whole token NaN.
    """

class Decoder:
    """A llama-family model on packed weights, with its cache of keys and values.

    model: what `qlab/generate.py` describes; its arrays are kept alive. One thread at a time may read.
    """

    def __init__(self, model: dict[str, Any]) -> None: ...
    def read(self, ids: Any, logits: Any, threads: int = 1, isa: str = "") -> None:
        """Write to `logits` float32 [vocabulary] what follows the tokens `ids` int64 [n], which follow those before.

        IndexError for a token outside the vocabulary, or more of them than the cache has room for.
        """
    def rewind(self, past: int = 0) -> None:
        """Forget all but the first `past` tokens."""
    @property
    def past(self) -> int:
        """Tokens in the cache."""
    @property
    def cache_bytes(self) -> int:
        """Memory of the cache."""
