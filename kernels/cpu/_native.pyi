from typing import Any

def features() -> list[str]:
    """The instruction sets this processor offers, such as `avx2`; the kernels choose among them at run time."""

def read_sum(array: Any, threads: int = 1) -> int:
    """Sum of the 64-bit words of a contiguous 1-D uint8 `array`, modulo 2**64; trailing bytes count one by one.

    It does nothing but read, so its speed is the ceiling of every kernel that is bound by memory.
    Raises TypeError for another dtype or layout, ValueError for an empty array or fewer than one thread.
    """
