"""Lesson 08's exercise: the stub fails, the solution passes, and what looks right but is not fails."""

import torch

from qlab.exercises.gguf import sixes
from qlab.ggml.kquants import unpack_sixes
from tests.exercises.judged import (  # noqa: F401 (tests)
    test_a_plausible_mistake_fails,
    test_the_helper_without_a_mistake_passes,
    test_the_solution_passes,
    test_the_stub_fails,
)

NAME = "gguf.sixes"
LESSON = "08"


def attempt(s, *, swap=False, high_from="same", nibbles="low first", shift=4, forget=False, whole=False):
    """The right answer, with one thing wrong by choice."""
    a, b, c = s[:, :4], s[:, 4:8], s[:, 8:]
    low, high = (c & 15, c >> 4) if nibbles == "low first" else (c >> 4, c & 15)
    top_a, top_b = (a >> 6, b >> 6) if high_from == "same" else (b >> 6, a >> 6)
    if forget:
        top_a, top_b = 0 * top_a, 0 * top_b
    first = (lambda x: x) if whole else (lambda x: x & 63)
    scales = torch.cat([first(a), low | top_a << shift], 1)
    minima = torch.cat([first(b), high | top_b << shift], 1)
    return (minima, scales) if swap else (scales, minima)


WRONG = {
    "scales and minima exchanged": {"swap": True},
    "the upper bits from the other four bytes": {"high_from": "other"},
    "the nibbles the other way round": {"nibbles": "high first"},
    "the upper bits put at 6 instead of 4": {"shift": 6},
    "the upper bits forgotten": {"forget": True},
    "the first four not cut to six bits": {"whole": True},
}


def test_the_oracle_is_the_librarys():
    s = torch.randint(256, (40, 12), generator=torch.Generator().manual_seed(3))
    for ours, theirs in zip(sixes(s), unpack_sixes(s.to(torch.uint8)), strict=True):
        assert torch.equal(ours, theirs.long())
