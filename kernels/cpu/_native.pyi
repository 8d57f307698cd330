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
