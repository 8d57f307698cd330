"""Which kernel multiplies how many rows, and in what tiles: a table to read, and the split that fills the device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """A kernel and its tile: BM rows of X by BN rows of W, warps that share it, stages of copies in flight.

    swap: W is the left operand. split: shares of the columns; None lets `choose_split` say.
    """

    kernel: str
    BM: int = 16
    BN: int = 128
    warps: int = 4
    stages: int = 4
    swap: bool = True
    split: int | None = None


# Up to so many rows of X: this. Rows beyond the tile cost nothing in memory traffic, so tiles are powers of two.
# Weights are the left operand throughout: wgmma then takes them from registers and is full with 8 tokens.
TABLE = {
    8: Config("gemv", BM=8),
    16: Config("skinny", BM=16),
    32: Config("skinny", BM=32),
    64: Config("skinny", BM=64, stages=3),
    1024: Config("gemm", BM=128, BN=128, warps=8, stages=3),
}
DENSE = Config("dense")
NAMES = {"gemv": TABLE[8], "skinny": TABLE[16], "gemm": TABLE[1024], "dense": DENSE}
SPLITS = (1, 2, 4, 8, 16)
SHARED = {80: 166912, 86: 101376, 87: 166912, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
"""Bytes of shared memory that a block may have, by compute capability (CUDA programming guide, table of limits)."""


def choose(M: int) -> Config:
    """The configuration for M rows; many rows pay for writing the weights out once, and cuBLAS does the rest."""
    return next((config for most, config in TABLE.items() if most >= M), DENSE)


def choose_split(tiles: int, blocks: int, processors: int) -> int:
    """Shares of the columns: as few as keep two programs on every processor busy.

    Time is waves of programs × blocks each does; a share costs about a block more, for its start and its sum.
    """

    def cost(split: int) -> tuple[float, int]:
        waves = max(tiles * split / (2 * processors), 1.0)
        return -(-waves // 1) * (-(-blocks // split) + 1), split

    return min((split for split in SPLITS if split <= blocks), key=cost)
