"""Grids: the levels a weight may take, in the order of their codes.

A grid knows nothing about scales. It turns real numbers that are already in grid units into unsigned codes, and codes
back into levels. Everything else (groups, scales, zero points) is a `QuantSpec` around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import torch
from torch import Tensor

from qlab.errors import QlabError


def half_up(x: Tensor) -> Tensor:
    """⌊x + ½⌋, without the sum, which makes a whole 1 of the float just below ½."""
    whole = x.floor()
    return whole + (x - whole >= 0.5)


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "half-even": torch.round,  # NumPy, PyTorch, and C's nearbyint
    "half-up": half_up,  # the textbook's rule, and most hand calculations
    "half-away": lambda x: torch.sign(x) * half_up(x.abs()),  # C's roundf
}


@dataclass(frozen=True)
class Grid:
    """Levels in code order: `levels[code]` is the value of `code`, codes are unsigned `0 … 2^bits − 1`.

    Several codes may share a value (MXFP4 has 16 codes and 15 values) and a code may be no number (FP8's NaN):
    encoding never produces a second zero or a NaN.
    """

    name: str
    levels: tuple[float, ...] = field(compare=False, repr=False)
    rounding: str = "half-even"

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return max(1, (len(self.levels) - 1).bit_length())

    @property
    def stored_bits(self) -> float:
        """Bits of one code in a file: fewer than `bits` where several codes share a byte (five ternary ones)."""
        return 52 * 8 / 256 if self.name == "ternary" else self.bits  # TQ1_0: 48 bytes of five codes and 4 of four

    @cached_property
    def is_integer(self) -> bool:
        """Whether the levels are consecutive integers, so that a zero point may shift them."""
        first = self.levels[0]
        return first == int(first) and all(b - a == 1 for a, b in zip(self.levels, self.levels[1:], strict=False))

    @cached_property
    def absmax(self) -> float:
        """The largest finite magnitude among the levels."""
        return float(self.table[self.table.isfinite()].abs().max())

    @cached_property
    def table(self) -> Tensor:
        """Levels as a float32 tensor [2^bits]."""
        return torch.tensor(self.levels, dtype=torch.float32)

    @cached_property
    def _ordered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct finite levels ascending, their codes, and the midpoints between them."""
        first_code: dict[float, int] = {}
        for code, level in enumerate(self.levels):
            if level == level:  # not NaN
                first_code.setdefault(level + 0.0, code)  # -0.0 + 0.0 is 0.0: one zero
        levels = torch.tensor(sorted(first_code), dtype=torch.float64)
        codes = torch.tensor([first_code[x] for x in levels.tolist()], dtype=torch.uint8)
        return levels, codes, (levels[1:] + levels[:-1]) / 2

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        """Nearest codes (uint8, the shape of `x`) of real `x` in grid units, saturating at both ends.

        On an integer grid `zero` (broadcastable integers) is added after rounding: `clamp(round(x) + zero)`.
        """
        if self.is_integer:
            shift = -self.levels[0] if zero is None else zero - self.levels[0]
            codes = ROUNDINGS[self.rounding](x) + shift
            return codes.clamp_(0, len(self.levels) - 1).to(torch.uint8)
        if zero is not None:
            raise QlabError(f"grid {self.name} has no zero point: only integer grids do; use a symmetric rule")
        return self._nearest(x)

    def _nearest(self, x: Tensor) -> Tensor:
        """Nearest level by midpoints; an exact tie takes the even code, as IEEE rounding of a small float does."""
        levels, codes, midpoints = self._ordered
        midpoints = midpoints.to(x.dtype)
        below = torch.bucketize(x.contiguous(), midpoints)  # a tie falls to the lower level …
        above = (below + 1).clamp_(max=len(levels) - 1)
        tie = midpoints[below.clamp(max=len(midpoints) - 1)] == x
        odd = codes[below] % 2 == 1  # … unless the lower code is odd
        return codes[torch.where(tie & odd, above, below)]

    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Levels of `codes`, in the shape of `codes`."""
        if self.is_integer:
            levels = codes.to(dtype)
            return levels.add_(self.levels[0]) if self.levels[0] else levels
        return self.table.to(codes.device, dtype)[codes.long()]

    def rounded(self, rounding: str) -> Grid:
        """The same levels under another rounding rule: half-even, half-up or half-away."""
        if rounding not in ROUNDINGS:
            raise QlabError(f"unknown rounding {rounding!r}: choose one of {', '.join(ROUNDINGS)}")
        return replace(self, rounding=rounding)


def unsigned(bits: int) -> Grid:
    """`int<bits>`: levels 0 … 2^bits − 1, for rules with a zero point or a minimum."""
    return Grid(f"int{bits}", tuple(float(i) for i in range(2**bits)))


def signed(bits: int) -> Grid:
    """`sint<bits>`: levels −2^(bits−1) … 2^(bits−1) − 1, stored offset-binary: GPTQ's codes with zero 2^(bits−1).

    One bit has no room for a zero: its levels are ∓½, so that the scale `2·max|w|/(2^bits − 1)` reaches ±max|w|.
    """
    if bits == 1:
        return Grid("sint1", (-0.5, 0.5))
    return Grid(f"sint{bits}", tuple(float(i - 2 ** (bits - 1)) for i in range(2**bits)))


# bitsandbytes `functional.py`: quantiles of a standard normal between .9677083 and ½, scaled to ±1 (QLoRA, eq. 4).
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
# bitsandbytes' FP4 in its own bit order, normalised by its largest value 12.
FP4 = tuple(s * x / 12 for s in (1, -1) for x in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))
# ggml's `kvalues_iq4nl`, in units of the block scale.
IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# BitNet b1.58's weights as llama.cpp stores them: TQ1_0 packs five of three levels in a byte, TQ2_0 two bits for four.
TERNARY, TERNARY_2BIT = (-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0, 2.0)
# OCP Microscaling FP4: sign, two exponent bits, one mantissa bit.
E2M1 = tuple(s * x for s in (1.0, -1.0) for x in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0))


def _small_float(dtype: torch.dtype) -> tuple[float, ...]:
    """The 256 values of an 8-bit float in code order; infinities become NaN, because encoding saturates."""
    values = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    return tuple(torch.where(values.isinf(), torch.nan, values).tolist())


def _ue4m3() -> tuple[float, ...]:
    """ggml's unsigned E4M3, bias 7: the sign bit is ignored, and 0x7F is 0 rather than NaN."""

    def value(code: int) -> float:
        exponent, mantissa = code >> 3 & 15, code & 7
        return 0.0 if code == 0x7F else mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)

    return tuple(value(code) for code in range(256))


def _dynamic_map() -> tuple[float, ...]:
    """bitsandbytes' signed 8-bit dynamic map: decade `10^(i−6)` holds `2^i` midpoints of [0.1, 1], i = 0 … 6."""
    positive: list[float] = []
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        positive += (10.0 ** (i - 6) * (edges[1:] + edges[:-1]) / 2).tolist()
    return tuple(sorted([*positive, *(-x for x in positive), 0.0, 1.0]))


_CODEBOOKS: dict[str, Callable[[], tuple[float, ...]]] = {
    "nf4": lambda: NF4,
    "fp4": lambda: FP4,
    "iq4_nl": lambda: tuple(float(x) for x in IQ4_NL),
    "e2m1": lambda: E2M1,
    "e4m3": lambda: _small_float(torch.float8_e4m3fn),
    "e5m2": lambda: _small_float(torch.float8_e5m2),
    "e8m0": lambda: (*(2.0 ** (c - 127) for c in range(255)), float("nan")),
    "dynamic8": _dynamic_map,
    # ggml keeps FP4 twice as large (its integers) under scales half as large, and knows no NaN among the scales
    "e2m1x2": lambda: tuple(2 * x + 0.0 for x in E2M1),
    "e8m0h": lambda: tuple(2.0 ** (c - 128) for c in range(256)),
    "ue4m3h": lambda: tuple(x / 2 for x in _ue4m3()),
    "ternary": lambda: TERNARY,
    "ternary2": lambda: TERNARY_2BIT,
    # unsigned levels under a scale that may be negative: the scales and minima of K-quants
    "uint4": lambda: unsigned(4).levels,
    "uint6": lambda: unsigned(6).levels,
}


@cache
def get_grid(name: str) -> Grid:
    """A grid by name: int1 … int8, sint1 … sint8, nf4, fp4, iq4_nl, e2m1, e4m3, e5m2, e8m0, dynamic8,
    and those of GGUF's blocks: ternary, ternary2, uint4, uint6, e2m1x2, e8m0h, ue4m3h.
    """
    for bits in range(1, 9):
        if name == f"int{bits}":
            return unsigned(bits)
        if name == f"sint{bits}":
            return signed(bits)
    if name in _CODEBOOKS:
        return Grid(name, _CODEBOOKS[name]())
    raise QlabError(f"unknown grid {name!r}: choose one of {', '.join(grid_names())}")


def register_grid(name: str, levels: tuple[float, ...]) -> Grid:
    """Make a codebook known by `name` (2 to 256 levels in code order), for `get_grid` and for spec names."""
    if not 2 <= len(levels) <= 256:
        raise QlabError(f"grid {name!r} has {len(levels)} levels: a code holds 2 to 256 of them")
    if name in grid_names() and get_grid(name).levels != levels:
        raise QlabError(f"grid {name!r} exists with other levels: choose another name")
    _CODEBOOKS[name] = lambda: levels
    get_grid.cache_clear()
    return get_grid(name)


def grid_names() -> list[str]:
    """Every name `get_grid` knows."""
    return [f"int{b}" for b in range(1, 9)] + [f"sint{b}" for b in range(1, 9)] + list(_CODEBOOKS)
