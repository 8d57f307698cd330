"""The figure of lesson 07: a line per name, its least marked."""

from qlab.plots import alpha_curves


def test_each_line_is_followed_by_a_mark_at_its_least():
    a, at_a, b, at_b = alpha_curves({"q": [1.0, 0.5, 0.75], "o": [1.0, 2.0, 3.0]}, [0, 0.5, 1]).data
    assert (a.name, list(a.x), list(a.y)) == ("q", [0, 0.5, 1], [1, 0.5, 0.75])
    assert (list(at_a.x), list(at_a.y), at_a.showlegend) == ([0.5], [0.5], False)
    assert (list(at_b.x), list(at_b.y)) == ([0], [1])
    assert a.line.dash != b.line.dash and at_a.marker.symbol != at_b.marker.symbol


def test_the_scale_starts_at_zero_unless_it_is_logarithmic():
    assert alpha_curves({"q": [1.0, 2.0]}, [0, 1]).layout.yaxis.rangemode == "tozero"
    assert alpha_curves({"q": [1.0, 2.0]}, [0, 1], log=True).layout.yaxis.type == "log"
