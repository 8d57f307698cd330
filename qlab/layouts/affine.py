"""What the layouts of affine integer codes share: which specs they hold, and strict looks at what a file gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.qtensor import QTensor
from qlab.spec import DTYPES, QuantSpec

RULES = ("sym", "narrow", "asym", "awq")


def check_spec(layout: str, spec: QuantSpec, name: str, bits: Collection[int], dtypes: Collection[str]) -> None:
    """QlabError, naming `name`, unless `spec` is an integer grid of these `bits` in rows, with plain scales."""
    remedy = f"use int4-g128-sym or -asym with {' or '.join(dtypes)} scales"
    if spec.rule not in RULES or not spec.grid.is_integer or spec.blocking != "row" or spec.scale or spec.offset:
        raise QlabError(
            f"{name} is {spec}: {layout} stores integers with one plain scale a group ({', '.join(RULES)}); {remedy}"
        )
    if spec.bits not in bits:
        raise QlabError(f"{name} has {spec.bits} bits: {layout} stores {', '.join(map(str, bits))}; choose one of them")
    if spec.dtype not in dtypes:
        raise QlabError(f"{name} has {spec.dtype} scales ({spec}): {layout} cannot hold them; {remedy}")


def plain(Q: QTensor) -> tuple[Tensor, Tensor]:
    """Scales and unsigned zero points [out, groups] of an affine QTensor; a symmetric one has 2^(b−1) throughout."""
    assert isinstance(Q.scale, Tensor)
    if Q.zero is not None:
        return Q.scale, Q.zero
    return Q.scale, torch.full(Q.scale.shape, middle(Q.spec), dtype=torch.uint8)


def middle(spec: QuantSpec) -> int:
    """The code of level 0 on a signed grid: the zero point that symmetric specs imply."""
    return int(2 ** (spec.bits - 1))


def as_stored(spec: QuantSpec, scale: Tensor) -> QuantSpec:
    """`spec` with the dtype that the file's scales have."""
    return replace(spec, dtype=next(name for name, dtype in DTYPES.items() if dtype == scale.dtype))


def take(tensors: Mapping[str, Tensor], needed: Sequence[str], optional: Sequence[str] = ()) -> list[Tensor | None]:
    """The tensors of these suffixes, None for an optional one that is not there; QlabError for any other suffix."""
    if missing := [key for key in needed if key not in tensors]:
        raise QlabError(f"{missing[0]} is missing: copy or download the checkpoint again")
    if unknown := sorted(tensors.keys() - {*needed, *optional}):
        raise QlabError(f"unexpected tensor {unknown[0]}: this layout has {', '.join([*needed, *optional])}")
    return [tensors.get(key) for key in (*needed, *optional)]


def expect(tensor: Tensor, key: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> Tensor:
    """`tensor` itself, or QlabError if its shape or dtype is not what the configuration asks for."""
    if tuple(tensor.shape) != shape:
        raise QlabError(
            f"{key} is {tuple(tensor.shape)} where its configuration says {shape}: copy both from one model"
        )
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise QlabError(
            f"{key} holds {str(tensor.dtype).removeprefix('torch.')}, not {wanted}: it is no such checkpoint"
        )
    return tensor


def scattered(index: Tensor | None, key: str, spec: QuantSpec, length: int) -> Tensor | None:
    """A stored group index [in]; None where it only counts off contiguous groups."""
    if index is None:
        return None
    expect(index, key, (length,), torch.int32)
    groups = spec.group_count(length)
    if not 0 <= int(index.min()) <= int(index.max()) < groups:
        raise QlabError(f"{key} names groups {int(index.min())} … {int(index.max())} of {groups}: the file is damaged")
    return None if torch.equal(index, counted(spec, length)) else index


def counted(spec: QuantSpec, length: int) -> Tensor:
    """The group of each column where groups are contiguous: int32 [in]."""
    return torch.arange(length, dtype=torch.int32) // spec.group_in(length)


def spec_from(bits: Any, group_size: Any, rule: str) -> QuantSpec:
    """The spec of a configuration's numbers; a group size of -1 or null is one group per row."""
    if bits not in range(2, 9):
        raise QlabError(f"bits {bits!r} in quantization_config: qlab reads 2 to 8")
    whole_row = group_size in (-1, None)
    if not whole_row and not (isinstance(group_size, int) and group_size > 0):
        raise QlabError(f"group_size {group_size!r} in quantization_config: it must be a positive number, or -1")
    return QuantSpec.parse(f"int{bits}-{'row' if whole_row else f'g{group_size}'}-{rule}")


Numbers = tuple[int, int | None, bool]


def numbers(spec: QuantSpec) -> Numbers:
    """What a configuration says of a spec: bits, group size (None is a whole row), symmetric."""
    return spec.bits, spec.group_size, spec.symmetric


def commonest(specs: Mapping[str, QuantSpec]) -> Numbers:
    """The numbers that most layers have; the first of equals."""
    return Counter(map(numbers, specs.values())).most_common(1)[0][0]
