"""The figure of lesson 05's record: means, ranges of the draws, and the lines across."""

from qlab.plots import calibration_curves

ROWS = [
    {"text": "hamlet", "tokens": 8192, "perplexity": 60.0},
    {"text": "hamlet", "tokens": 2048, "perplexity": 70.0},
    {"text": "hamlet", "tokens": 2048, "perplexity": 100.0},
    {"text": "pydoc", "tokens": 2048, "perplexity": 90.0},
]


def test_one_line_per_text_from_few_tokens_to_many():
    hamlet, pydoc = calibration_curves(ROWS).data
    assert (hamlet.name, list(hamlet.x), list(hamlet.y)) == ("hamlet", [2048, 8192], [85, 60])
    assert (pydoc.name, list(pydoc.x), list(pydoc.y)) == ("pydoc", [2048], [90])
    assert hamlet.marker.symbol != pydoc.marker.symbol and hamlet.line.dash != pydoc.line.dash


def test_bars_reach_the_lowest_and_the_highest_draw():
    hamlet = calibration_curves(ROWS).data[0]
    assert list(hamlet.error_y.array) == [15, 0]
    assert list(hamlet.error_y.arrayminus) == [15, 0]


def test_lines_across_carry_their_names():
    *_, rounding, reference = calibration_curves(ROWS, lines={"plain rounding": 97.6734, "16 bits": 18.67}).data
    assert (rounding.name, list(rounding.x), list(rounding.y)) == ("plain rounding", [2048, 8192], [97.67, 97.67])
    assert (reference.name, list(reference.y)) == ("16 bits", [18.67, 18.67])
    assert rounding.line.dash != reference.line.dash
    assert rounding.text[-1] == "plain rounding" and not rounding.showlegend


def test_ticks_double_and_enclose_the_values():
    fig = calibration_curves(ROWS, lines={"16 bits": 18.67})
    assert list(fig.layout.yaxis.tickvals) == [10, 20, 40, 80, 160]
    assert list(fig.layout.yaxis.ticktext) == ["10", "20", "40", "80", "160"]


def test_other_columns_and_the_ticks():
    rows = [{**row, "kl_mean": 1.0} for row in ROWS]
    fig = calibration_curves(rows, "kl_mean")
    assert "KL" in fig.layout.yaxis.title.text
    assert list(fig.layout.xaxis.tickvals) == [2048, 8192] and list(fig.layout.xaxis.ticktext) == ["2,048", "8,192"]
