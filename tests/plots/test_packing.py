"""The figure by bits: each name's numbers at its own widths."""

from qlab.plots import by_bits


def test_lines_are_the_numbers_given():
    fig = by_bits({"a": {1: 2.0, 3: 4.0}, "b": {4: 0.123456}}, y="µs", dashed=["b"])
    assert [(line.name, line.x, line.y) for line in fig.data] == [("a", (1, 3), (2.0, 4.0)), ("b", (4,), (0.123,))]
    assert [line.line.dash for line in fig.data] == ["solid", "dash"]
    assert fig.layout.yaxis.title.text == "µs" and fig.layout.yaxis.rangemode == "tozero"
