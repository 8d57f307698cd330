"""The figures of lesson 04: a spectrum by rank, and a value through the depth of a model."""

import pytest

from qlab.plots import by_block, spectrum


def test_eigenvalues_come_largest_first_and_zeros_are_left_out():
    (line,) = spectrum({"H": [0.5, 8.0, 0.0, 2.0]}).data
    assert (line.name, list(line.x), list(line.y)) == ("H", [1, 2, 3], [8, 2, 0.5])


def test_a_long_spectrum_keeps_its_ends_and_is_thinned():
    values = [1 / rank for rank in range(1, 5001)]
    (line,) = spectrum({"H": values}).data
    assert (line.x[0], line.x[-1]) == (1, 5000) and len(line.x) <= 96
    assert list(line.y) == pytest.approx([1 / x for x in line.x], rel=0.05)


def test_floors_reach_across_and_carry_their_names():
    *_, floor = spectrum({"a": [4.0, 1.0], "b": [3.0, 2.0, 1.0]}, floors={"damping": 0.0123}).data
    assert (list(floor.x), list(floor.y), floor.text[0], floor.showlegend) == ([1, 3], [0.012] * 2, "damping", False)


def test_one_line_per_linear_through_the_blocks():
    rows = [{"block": b, "linear": name, "share": 0.1 * b} for b in (0, 1) for name in ("q", "o")]
    q, o = by_block(rows, "share", title="t", y="share").data
    assert (q.name, list(q.x), list(q.y)) == ("q", [0, 1], [0, 0.1])
    assert o.marker.symbol != q.marker.symbol and o.line.dash != q.line.dash
