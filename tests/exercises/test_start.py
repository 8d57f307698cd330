"""Lesson 00's exercise: the oracle is the spec's own count, the stub fails, the solution passes, near misses fail."""

import math

import pytest

from qlab.exercises.core import get_exercise
from qlab.exercises.start import true_bits
from qlab.spec import QuantSpec
from tests.exercises.notebook_cells import function, tagged

EXERCISE = get_exercise("start.true_bits")


def attempt(tag):
    return function(tagged("00", tag), "true_bits")


def test_the_stub_fails():
    verdict = EXERCISE.check(attempt("exercise-stub"))
    assert not verdict
    assert "the stub is still there" in repr(verdict)


def test_the_solution_passes():
    assert EXERCISE.check(attempt("exercise-solution"))


@pytest.mark.parametrize("shape", [(576, 576), (1536, 576), (576, 1536), (3, 129), (1, 128)])
@pytest.mark.parametrize(
    ("spec", "arguments"),
    [("int4-g128-asym", (4, 128, 16, 4)), ("int8-row-sym", (8, None, 16, 0)), ("int3-g32-asym", (3, 32, 16, 3))],
)
def test_the_oracle_is_the_count_of_the_spec(shape, spec, arguments):
    exact = QuantSpec.parse(spec).bits_per_weight(shape)
    assert true_bits(*shape, *arguments) == pytest.approx(exact, rel=EXERCISE.tolerance)


def count_with(groups, per="row"):
    """An attempt that takes `groups(columns, group)` groups for a row, or for the whole matrix."""

    def attempt(out, columns, bits, group, scale_bits, zero_bits):
        length = columns if per == "row" else out * columns
        return bits + groups(length, group or length) * (scale_bits + zero_bits) / length

    return attempt


def no_zero(out, columns, bits, group, scale_bits, zero_bits):
    return bits + math.ceil(columns / (group or columns)) * scale_bits / columns


def shared_by_all_rows(out, columns, bits, group, scale_bits, zero_bits):
    return bits + math.ceil(columns / (group or columns)) * (scale_bits + zero_bits) / (out * columns)


def padded_to_whole_groups(out, columns, bits, group, scale_bits, zero_bits):
    groups = math.ceil(columns / (group or columns))
    return groups * ((group or columns) * bits + scale_bits + zero_bits) / columns


def codes_in_whole_bytes(out, columns, bits, group, scale_bits, zero_bits):
    return 8 + math.ceil(columns / (group or columns)) * (scale_bits + zero_bits) / columns


WRONG = {
    "the tail is forgotten": count_with(lambda n, g: n // g),
    "a fraction of a group": count_with(lambda n, g: n / g),
    "groups are rounded": count_with(lambda n, g: round(n / g)),
    "groups run across rows": count_with(lambda n, g: math.ceil(n / g), per="matrix"),
    "the zero is free": no_zero,
    "one set of scales for all rows": shared_by_all_rows,
    "the tail is padded": padded_to_whole_groups,
    "a byte for every code": codes_in_whole_bytes,
    "the bit count alone": lambda out, columns, bits, group, scale_bits, zero_bits: bits,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_near_misses_fail(wrong):
    verdict = EXERCISE.check(wrong)
    assert not verdict
    assert "raised" not in verdict.complaint
