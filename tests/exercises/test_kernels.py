"""Lesson 16's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import torch
from qlab.kernels import cpu

from qlab.exercises.kernels import pack_tile
from tests.exercises.judged import (  # noqa: F401 (tests)
    test_a_plausible_mistake_fails,
    test_the_helper_without_a_mistake_passes,
    test_the_solution_passes,
    test_the_stub_fails,
)

NAME = "kernels.pack_tile"
LESSON = "16"


def attempt(
    codes, *, swapped=False, neighbours=False, halves=False, columns_first=False, first_only=False, words=False
):
    """The right answer, with one thing wrong by choice."""
    blocks = codes.shape[1] // 32
    x = codes.reshape(16, blocks, 32).permute(1, 0, 2)  # [blocks, rows, 32]
    if neighbours:  # columns 2c and 2c + 1 in a byte, as AWQ and many others do
        quads = x.reshape(blocks, 16, 4, 4, 2).permute(0, 2, 4, 1, 3)
    elif halves:  # columns c and c + 16 in a byte, as Q4_0 does
        quads = x.reshape(blocks, 16, 2, 4, 4).permute(0, 3, 2, 1, 4)
    else:
        quads = x.reshape(blocks, 16, 4, 2, 4).permute(0, 2, 3, 1, 4)  # [blocks, vector, nibble, rows, 4]
    if columns_first:
        quads = quads.transpose(3, 4)
    low, high = quads[:, :, 0], quads[:, :, 1]
    low, high = (high, low) if swapped else (low, high)
    packed = (low | high << 4).reshape(blocks, 256)
    if words:
        packed = packed.reshape(blocks, 64, 4).flip(2).reshape(blocks, 256)
    return packed[:1] if first_only else packed


WRONG = {
    "the nibbles swapped": {"swapped": True},
    "neighbouring columns share a byte": {"neighbours": True},
    "Q4_0's order": {"halves": True},
    "a column to a lane": {"columns_first": True},
    "the first block alone": {"first_only": True},
    "each lane's bytes from the end": {"words": True},
}


def test_the_oracle_is_the_compiled_layout():
    codes = torch.randint(16, (16, 96), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    out = torch.empty(1, 3, 256, dtype=torch.uint8)
    cpu.tile(codes, 4, out, 1)
    assert torch.equal(pack_tile(codes), out[0])
