"""QuantSpec: how a matrix is cut into groups and what each group stores, by a short name such as `int4-g128-asym`."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from functools import cache

import torch

from qlab.errors import QlabError
from qlab.grid import Grid, get_grid, grid_names

# How a group's range becomes its scale. The symmetric rules need no zero point.
SYMMETRIC_RULES = {
    "sym": "scale = max|w| / half the span of the levels: 7.5 at 4 bits (GPTQ, compressed-tensors)",
    "narrow": "scale = max|w| / (2^(b−1) − 1): 7 at 4 bits, so ±max|w| are both levels (AutoAWQ, Q8_0)",
    "extreme": "scale = the weight farthest from 0 / the level farthest from 0, with its sign (llama.cpp's Q4_0)",
    "mx": "scale = 2^(⌊log2 max|w|⌋ − e_max): OCP Microscaling",
    "centered": "the tensor's mean is taken off first, then max|w| (bitsandbytes' double quantization)",
    "none": "no scale: the levels are the values",
}
ASYMMETRIC_RULES = {
    "asym": "integer zero point, range forced to hold 0 (GPTQ, compressed-tensors)",
    "awq": "integer zero point, range not forced, zero point clamped (AWQ)",
    "offset": "a real minimum is stored: w ≈ scale·q + min (Q4_1, MLX, K-quants)",
}
RULES = SYMMETRIC_RULES | ASYMMETRIC_RULES
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
BLOCKINGS = ("row", "flat", "tensor")
ROWS = {"row", "channel", "token"}  # one scale for a whole row: an output channel of a weight, a token of activations


@dataclass(frozen=True)
class QuantSpec:
    """What is stored for a matrix [out, in]: a grid, groups along `in`, a scale per group (and a zero or offset).

    `group_size` None is one group per row. `blocking` "row" cuts rows, "flat" cuts the flattened tensor as bitsandbytes
    does, "tensor" has one group in all. `scale` and `offset` may be specs themselves: a scale on its own grid is what
    K-quants, NF4 double quantization, MXFP4 and NVFP4 have in common. Where they are None, `dtype` is stored.
    """

    grid: Grid
    group_size: int | None = 128
    rule: str = "asym"
    blocking: str = "row"
    scale: QuantSpec | None = None
    offset: QuantSpec | None = None
    dtype: str = "fp16"

    def __post_init__(self) -> None:
        if self.group_size is not None and self.group_size < 1:
            raise QlabError(f"group size {self.group_size} in {self.grid.name}: it must be 1 or more (or `row`)")
        if self.blocking == "tensor" and self.group_size is not None:
            raise QlabError(
                f"group size {self.group_size} with one group for the whole tensor: leave out one of the two"
            )
        if self.rule not in RULES:
            raise QlabError(f"unknown rule {self.rule!r}: choose one of {', '.join(RULES)}")
        if self.dtype not in DTYPES or self.blocking not in BLOCKINGS:
            raise QlabError(
                f"dtype {self.dtype!r}, blocking {self.blocking!r}: choose of {', '.join([*DTYPES, *BLOCKINGS])}"
            )
        if not self.symmetric and self.grid.is_integer and self.grid.levels[0] != 0:
            raise QlabError(
                f"{self.grid.name} is signed: {self.rule!r} needs levels from 0, as int{self.bits} has them"
            )
        if not self.symmetric and not self.grid.is_integer:
            raise QlabError(f"{self.grid.name} is not an integer grid: {self.rule!r} needs one; use `sym`")
        if self.rule == "narrow" and (not self.grid.is_integer or self.grid.bits == 1):
            raise QlabError(f"`narrow` divides by 2^(b−1) − 1: {self.grid.name} has no such scale; use `sym`")

    @property
    def symmetric(self) -> bool:
        """Whether the rule stores no zero point and no minimum."""
        return self.rule in SYMMETRIC_RULES

    @property
    def bits(self) -> int:
        """Bits of one code, metadata not counted."""
        return self.grid.bits

    @property
    def has_zero(self) -> bool:
        """Whether each group stores an integer zero point."""
        return self.rule in ("asym", "awq")

    def lines(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(lines, length) that groups are cut from: rows, or one line for flat and tensor blocking."""
        n = math.prod(shape)
        return (n // shape[-1], shape[-1]) if self.blocking == "row" else (1, n)

    def group_in(self, length: int) -> int:
        """The group size in a line of `length`; the last group of a line may be shorter."""
        return length if self.group_size is None or self.blocking == "tensor" else self.group_size

    def group_count(self, length: int) -> int:
        """Groups in a line of `length`."""
        return math.ceil(length / self.group_in(length))

    def check(self, shape: tuple[int, ...], name: str = "weight") -> None:
        """Raise QlabError, naming `name`, if a matrix of `shape` cannot be cut by this spec."""
        if len(shape) != 2 or 0 in shape:
            raise QlabError(f"{name} has shape {tuple(shape)}: a non-empty matrix [out, in] is needed")
        length = self.lines(shape)[1]
        if self.group_in(length) > length:
            remedy = f"use a smaller group, or one per row ({self.grid.name.lstrip('s')}-row-{self.rule})"
            raise QlabError(f"group size {self.group_size} is larger than the {length} in a row of {name}: {remedy}")

    def size_bits(self, shape: tuple[int, ...]) -> int:
        """Stored bits of a matrix of `shape`: codes, scales, zero points and minima."""
        lines, length = self.lines(shape)
        groups = (lines, self.group_count(length))
        total = round(lines * length * self.grid.stored_bits)
        plain = torch.finfo(DTYPES[self.dtype]).bits * math.prod(groups)
        if self.rule != "none":
            total += self.scale.size_bits(groups) if self.scale else plain
        if self.rule == "offset":
            total += self.offset.size_bits(groups) if self.offset else plain
        if self.has_zero:
            total += math.prod(groups) * self.bits
        if self.rule == "centered":
            total += 32  # one float32 mean for the tensor
        return total

    def bits_per_weight(self, shape: tuple[int, ...]) -> float:
        """True bits per weight of a matrix of `shape`, metadata included."""
        return self.size_bits(shape) / math.prod(shape)

    @classmethod
    def parse(cls, name: str | QuantSpec) -> QuantSpec:
        """The spec that `name` means. Unknown parts raise QlabError with what is near."""
        return name if isinstance(name, QuantSpec) else _parse(name.strip().lower())

    def __str__(self) -> str:
        return next((n for n, text in PRESETS.items() if _parse(text) == self), None) or _print(self)


# A whole format under one name. Each is also readable in full: nested specs stand in parentheses.
PRESETS = {
    "mxfp4": "e2m1-g32-mx-scale(e8m0-row-none)",
    "mxfp8": "e4m3-g32-mx-scale(e8m0-row-none)",
    "nvfp4": "e2m1-g16-sym-scale(e4m3-tensor-sym-fp32)",
    # GGUF's blocks: a K-quant is a grid whose scales and minima are themselves on a grid
    "q4_0": "int4-g32-extreme",
    "q5_0": "int5-g32-extreme",
    "q2_k": "int2-g16-offset-scale(uint4-g16-extreme)-offset(uint4-g16-extreme)",
    "q3_k": "int3-g16-extreme-scale(int6-g16-extreme)",
    "q4_k": "int4-g32-offset-scale(uint6-g8-extreme)-offset(uint6-g8-extreme)",
    "q5_k": "int5-g32-offset-scale(uint6-g8-extreme)-offset(uint6-g8-extreme)",
    "q6_k": "int6-g16-extreme-scale(int8-g16-extreme)",
    "iq4_nl": "iq4_nl-g32-extreme",
    "iq4_xs": "iq4_nl-g32-extreme-scale(int6-g8-extreme)",
    "tq1_0": "ternary-g256-narrow",
    "tq2_0": "ternary2-g256-narrow",
    "mxfp4_ggml": "e2m1x2-g32-mx-scale(e8m0h-row-none)",
    "nvfp4_ggml": "e2m1x2-g16-sym-scale(ue4m3h-row-none)",
}
# More names for a spec that prints as itself.
ALIASES = {"q4_1": "int4-g32-offset", "q5_1": "int5-g32-offset", "q8_0": "int8~away-g32-narrow"}
# bitsandbytes: scales centred on their mean, then 8 bits in blocks of 256 (QLoRA, §3 "Double Quantization").
DOUBLE_QUANT = "dynamic8-g256-flat-centered-fp32"
BITSANDBYTES = {"nf4", "fp4"}  # flat blocks with float32 scales


@cache
def _parse(name: str) -> QuantSpec:
    if full := (PRESETS | ALIASES).get(name):
        return _parse(full)
    head, *parts = _split(name)
    head, _, rounding = head.partition("~")
    kwargs: dict = {"group_size": 64 if head in BITSANDBYTES else 128}
    if head in BITSANDBYTES:
        kwargs |= {"blocking": "flat", "dtype": "fp32"}
    for part in parts:
        kwargs |= _part(part, name)
    integer = re.fullmatch(r"s?int[1-8]", head)
    rule = kwargs.setdefault("rule", "asym" if integer else "sym")
    grid = get_grid(_grid_name(head, rule, name))
    return QuantSpec(grid.rounded(f"half-{rounding}") if rounding else grid, **kwargs)


def _split(name: str) -> list[str]:
    """The parts between dashes; dashes inside parentheses belong to the nested spec."""
    parts, depth = [""], 0
    for char in name:
        depth += (char == "(") - (char == ")")
        if char == "-" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _grid_name(head: str, rule: str, name: str) -> str:
    """`int4` under a symmetric rule is the signed grid; everything else is itself."""
    integer = re.fullmatch(r"s?(int[1-8])", head)
    if integer and rule != "none":
        return integer[1] if rule in ASYMMETRIC_RULES else f"s{integer[1]}"
    if head in grid_names():
        return head
    near = difflib.get_close_matches(head, [g for g in grid_names() if g[:4] != "sint"] + list(PRESETS), 1)
    hint = f"did you mean {near[0]}?" if near else "a spec reads like int4-g128-asym, int8-row-sym, nf4-g64-dq or mxfp4"
    raise QlabError(f"unknown grid {head!r} in spec {name!r}: {hint}")


def _part(part: str, name: str) -> dict:
    """What one dash-separated part of a spec's name sets."""
    if match := re.fullmatch(r"g(\d+)", part):
        return {"group_size": int(match[1])}
    if match := re.fullmatch(r"(scale|offset)\((.+)\)", part):
        return {match[1]: _parse(match[2])}
    if part in ROWS:
        return {"group_size": None, "blocking": "row"}
    if part == "tensor":
        return {"group_size": None, "blocking": "tensor"}
    if part in ("flat", "rows"):
        return {"blocking": part.rstrip("s")}
    if part == "dq":
        return {"scale": _parse(DOUBLE_QUANT)}
    if part in DTYPES:
        return {"dtype": part}
    if part in RULES:
        return {"rule": part}
    known = [*RULES, *DTYPES, "g128", "row", "flat", "tensor", "dq"]
    near = difflib.get_close_matches(part, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known parts: {', '.join(known)}"
    raise QlabError(f"unknown part {part!r} in spec {name!r}: {hint}")


def _print(spec: QuantSpec) -> str:
    """The canonical name: `parse` of it gives the spec back."""
    head = re.sub(r"^sint", "int", spec.grid.name) if spec.rule != "none" else spec.grid.name
    bitsandbytes = head in BITSANDBYTES
    if spec.grid.rounding != "half-even":
        head += spec.grid.rounding.replace("half-", "~")
    parts = [head, f"g{spec.group_size}" if spec.group_size else "row" if spec.blocking == "row" else "tensor"]
    if spec.group_size and spec.blocking != ("flat" if bitsandbytes else "row"):
        parts.append("rows" if spec.blocking == "row" else "flat")
    if not (bitsandbytes and spec.rule == "sym"):
        parts.append(spec.rule)
    if spec.dtype != ("fp32" if bitsandbytes else "fp16"):
        parts.append(spec.dtype)
    if spec.scale == _parse(DOUBLE_QUANT):
        parts.append("dq")
    elif spec.scale:
        parts.append(f"scale({spec.scale})")
    if spec.offset:
        parts.append(f"offset({spec.offset})")
    return "-".join(parts)
