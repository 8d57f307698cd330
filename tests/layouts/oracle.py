"""What the formats' descriptions say, element by element and in Python's integers: slow, and independent of qlab."""

import torch

from qlab.qtensor import QTensor
from qlab.spec import QuantSpec


def field(words: list[int], bits: int, i: int) -> int:
    """Element i of a dense little-endian bitstream."""
    stream = sum((word & 0xFFFFFFFF) << (32 * j) for j, word in enumerate(words))
    return (stream >> (i * bits)) & (2**bits - 1)


def random_qtensor(spec: str, rows: int, columns: int, seed: int, scattered: bool = False) -> QTensor:
    """Any codes, zero points and scales that a spec allows: not only those that a method would choose."""
    generator = torch.Generator().manual_seed(seed)
    parsed = QuantSpec.parse(spec)
    top, groups = 2**parsed.bits, parsed.group_count(columns)
    codes = torch.randint(0, top, (rows, columns), generator=generator, dtype=torch.uint8)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[parsed.dtype]
    scale = torch.rand(rows, groups, generator=generator).to(dtype)
    zero = torch.randint(0, top, (rows, groups), generator=generator, dtype=torch.uint8) if parsed.has_zero else None
    index = None
    if scattered and groups > 1:
        index = (torch.arange(columns) // parsed.group_in(columns))[torch.randperm(columns, generator=generator)].int()
    return QTensor(codes, scale, parsed, zero, group_index=index)


def assert_same(a: QTensor, b: QTensor) -> None:
    """Equal bit by bit."""
    assert a.spec == b.spec
    for name in ("codes", "scale", "zero", "group_index"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        assert x is None or (x.dtype == y.dtype and torch.equal(x, y)), name
