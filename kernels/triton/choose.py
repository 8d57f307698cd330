"""Which kernel multiplies how many rows, and in what tiles: a table to read, and the split that fills the device.

Without a GPU at hand these were chosen by what the compiler makes of them: no spills, and bytes in flight.
`autotune.py` asks the device itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .checks import require
from .unpack import PLANES
from .weights import Kind, part_columns

KERNELS = ("gemv", "skinny", "gemm", "dense")
COMMON = Kind()


@dataclass(frozen=True)
class Config:
    """A kernel and its tile: BM rows of X by BN rows of W, warps that share it, stages of copies in flight.

    late: the sum of a group is scaled, not its weights; it needs a second accumulator. swap: W is the left operand.
    split: shares of the columns; None lets `choose_split` say.
    """

    kernel: str
    BM: int = 16
    BN: int = 128
    warps: int = 4
    stages: int = 4
    late: bool = True
    swap: bool = True
    split: int | None = None

    def __post_init__(self) -> None:
        known = (*KERNELS, "int8")
        require(self.kernel in known, f"there is no kernel {self.kernel!r}: give one of {', '.join(KERNELS)}")
        for name, least in (("BM", 8), ("BN", 16), ("warps", 1)):
            found = getattr(self, name)
            require(isinstance(found, int) and found >= least and found & found - 1 == 0,
                    f"{name} is {found}: give a power of two from {least}")  # fmt: skip
        for name, found in (("stages", self.stages), ("split", 1 if self.split is None else self.split)):
            require(isinstance(found, int) and found >= 1, f"{name} is {found}: give a whole number from 1")


# Up to so many rows of X: this. Weights are the left operand throughout: wgmma takes them from registers, and 8 tokens
# fill it. Scaling sums costs BM / group for each weight, scaling weights 1/2 (`choose` compares them); where registers
# end first, as before Hopper they do, weights are scaled.
AMPERE = {
    8: Config("gemv", BM=8, late=False),
    16: Config("skinny", BM=16, late=False),
    32: Config("skinny", BM=32, late=False),
    64: Config("skinny", BM=64, BN=64, warps=8, stages=3, late=False),
    1024: Config("gemm", BM=128, BN=64, warps=8, stages=3, late=False),
}
HOPPER = {
    8: Config("gemv", BM=8),
    16: Config("skinny", BM=16),
    32: Config("skinny", BM=32),
    64: Config("skinny", BM=64, stages=3, late=False),
    1024: Config("gemm", BM=128, warps=8, stages=2, late=False),
}
DENSE = Config("dense")
INT8 = Config("int8", BM=32)  # W4A8 and W8A8
SPLITS = (1, 2, 4, 8, 16)


def table(capability: int) -> dict[int, Config]:
    """The table of a compute capability (80, 89, 90): Hopper's mma differs from all before it."""
    return HOPPER if capability >= 90 else AMPERE


def choose(M: int, capability: int, kind: Kind = COMMON) -> Config:
    """The configuration for M rows; many rows pay for writing the weights out once, and cuBLAS does the rest.

    `cp.async` copies no less than 4 bytes a thread, so narrow parts (H columns) take more rows than there are.
    """
    part = part_columns(kind.bits, kind.group, 0)
    suited = (config for most, config in table(capability).items() if most >= M and config.BM * part >= 256)
    return _within_registers(next(suited, DENSE), capability, kind)


def _within_registers(config: Config, capability: int, kind: Kind) -> Config:
    """The table's configuration for weights of this kind, which may need more registers than the common one."""
    if config.kernel == "dense":
        return config
    planes, ampere = len(PLANES[kind.bits]), capability < 90
    held = config.BM == 8 and planes > 1  # mma of 8 tokens holds all planes of a block
    if config.late and (held or 0 < kind.group < 2 * config.BM):
        config = replace(config, late=False)
    crowded = kind.table and kind.group == 0  # no scale stands between the lookups of a block, so all are under way
    if config.BN > 64 and ((crowded and config.warps == 4) or (ampere and planes == 3)):
        config = replace(config, BN=64)
    if config.BM > 64 and ampere and (crowded or (kind.zero and 0 < kind.group <= 32)):
        config = replace(config, BM=64)
    return config


def named(kernel: str, M: int, capability: int, kind: Kind = COMMON) -> Config:
    """The configuration of that kernel that suits M rows best. Errors: ValueError for a name that is none."""
    require(kernel in KERNELS, f"there is no kernel {kernel!r}: give one of {', '.join(KERNELS)}")
    found = [config for config in table(capability).values() if config.kernel == kernel]
    suited = next((config for config in found if config.BM >= M), found[-1] if found else DENSE)
    return _within_registers(suited, capability, kind)


def choose_split(tiles: int, blocks: int, processors: int) -> int:
    """Shares of the columns: as few as keep two programs on every processor busy.

    Time is waves of programs × blocks each does; a share costs about a block more, for its start and its sum.
    """

    def cost(split: int) -> tuple[float, int]:
        waves = max(tiles * split / (2 * processors), 1.0)
        return -(-waves // 1) * (-(-blocks // split) + 1), split

    return min((split for split in SPLITS if split <= blocks), key=cost)
