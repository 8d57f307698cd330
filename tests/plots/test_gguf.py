"""The figure of lesson 08: three parts of a bar, and their sum beside it."""

import pytest

from qlab.ggml import grid_type, grid_types
from qlab.plots import bit_costs


def test_parts_are_stacked_and_the_sum_stands_beside():
    fig = bit_costs({"Q4_K": (4, 0.375, 0.125), "Q4_0": (4, 0.5, 0)})
    codes, scales, above, totals = fig.data
    assert (list(codes.y), list(codes.x)) == (["Q4_K", "Q4_0"], [4, 4])
    assert (list(scales.x), list(above.x)) == ([0.375, 0.5], [0.125, 0])
    assert list(totals.text) == [" 4.5", " 4.5"] and fig.layout.barmode == "stack"


@pytest.mark.parametrize("name", grid_types())
def test_the_parts_of_every_type_make_its_whole(name):
    kind = grid_type(name)
    parts = kind.bit_costs
    assert sum(parts) == pytest.approx(kind.bits_per_weight) and min(parts) >= 0


def test_known_types():
    assert grid_type("Q4_K").bit_costs == (4, 0.375, 0.125)  # 12 bytes of scales and minima, d and dmin: 4 bytes
    assert grid_type("Q4_1").bit_costs == (4, 1, 0)
    assert grid_type("Q6_K").bit_costs == (6, 0.5, 0.0625)
    assert grid_type("MXFP4").bit_costs == (4, 0.25, 0)
