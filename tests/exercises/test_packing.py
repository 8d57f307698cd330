"""Lesson 14's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import pytest
import torch

from qlab.bits import pack_bits
from qlab.exercises.packing import read_stream
from tests.exercises.judged import (  # noqa: F401 (tests)
    test_a_plausible_mistake_fails,
    test_the_helper_without_a_mistake_passes,
    test_the_solution_passes,
    test_the_stub_fails,
)

NAME = "packing.read_stream"
LESSON = "14"


def attempt(words, bits, count, *, signed=False, no_straddle=False, unmasked=False, past=False, high_first=False):
    """The right answer, with one thing wrong by choice."""
    wide = words if signed else words.long() & 0xFFFFFFFF
    wide = wide if past else torch.cat([wide, torch.zeros(1, dtype=wide.dtype)])
    at = torch.arange(count) * bits
    word, shift = at // 32, at % 32
    codes = wide[word] >> ((32 - bits - shift).clamp(min=0) if high_first else shift)
    if not no_straddle:
        high = wide[word + 1] << (32 - shift)
        codes = codes | torch.where(shift + bits > 32, high, torch.zeros_like(high))
    return (codes if unmasked else codes & 2**bits - 1).to(torch.uint8)


WRONG = {
    "shifted with its sign": {"signed": True},
    "no second word": {"no_straddle": True},
    "no mask": {"unmasked": True},
    "a word past the end": {"past": True},
    "from the top of the word": {"high_first": True},
}


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_oracle_reads_the_librarys_stream(bits):
    codes = torch.randint(2**bits, (77,), generator=torch.Generator().manual_seed(bits), dtype=torch.uint8)
    assert torch.equal(read_stream(pack_bits(codes, bits), bits, 77), codes)
