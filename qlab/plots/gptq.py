"""Figures of calibrated quantization: what the amount and the kind of calibration text are worth."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from qlab.plots.evaluation import METRICS, Metric
from qlab.plots.theme import DASHES, GREY, SERIES, SYMBOLS, cycle, faded, figure, rounded

Row = Mapping[str, Any]


def calibration_curves(
    rows: Sequence[Row],
    value: str = "perplexity",
    *,
    lines: Mapping[str, float] | None = None,
    title: str = "What the calibration text is worth",
    caption: str = "",
) -> go.Figure:
    """`value` against calibration `tokens`, one line per `text` through the means of its draws.

    lines: values that need no calibration, such as plain rounding and the reference, drawn across with their names.
    """
    texts = list(dict.fromkeys(row["text"] for row in rows))
    sizes = sorted({row["tokens"] for row in rows})
    traces = [_curve([row for row in rows if row["text"] == text], text, value, i) for i, text in enumerate(texts)]
    traces += [_across(name, height, sizes, i) for i, (name, height) in enumerate((lines or {}).items())]
    label = METRICS.get(value, Metric(value)).label
    fig = figure(*traces, title=title, x="calibration tokens", y=label, caption=caption)
    fig.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{n:,}" for n in sizes])
    heights = _doublings([row[value] for row in rows] + list((lines or {}).values()))
    return fig.update_yaxes(type="log", tickvals=heights, ticktext=[f"{v:g}" for v in heights])


def _doublings(values: Sequence[float]) -> list[float]:
    """Round ticks from below the smallest value to above the largest, each twice the one before."""
    first = 10.0 ** math.floor(math.log10(min(values)))
    ticks = [first * 2**k for k in range(math.ceil(math.log2(max(values) / first)) + 1)]
    return rounded([t for t in ticks if t >= min(values) / 2])


def _across(name: str, height: float, sizes: Sequence[int], index: int) -> go.Scatter:
    """A grey line over all sizes with its name at the right end: the legend has no room for it."""
    return go.Scatter(
        name=name,
        x=[sizes[0], sizes[-1]],
        y=rounded([height, height]),
        text=["", name],
        textposition=cycle(("bottom left", "top left"), index),
        textfont={"color": GREY, "size": 12},
        mode="lines+text",
        line={"color": GREY, "dash": cycle(("dot", "solid"), index), "width": 1.5},
        showlegend=False,
    )


def _curve(rows: Sequence[Row], text: str, value: str, index: int) -> go.Scatter:
    """Means over the draws of each size, few tokens first; bars reach from the lowest draw to the highest."""
    sizes = sorted({row["tokens"] for row in rows})
    draws = [[row[value] for row in rows if row["tokens"] == n] for n in sizes]
    means = [sum(d) / len(d) for d in draws]
    above = [max(d) - m for d, m in zip(draws, means, strict=True)]
    below = [m - min(d) for d, m in zip(draws, means, strict=True)]
    colour = cycle(SERIES, index)
    return go.Scatter(
        name=text,
        x=sizes,
        y=rounded(means),
        error_y={"type": "data", "array": rounded(above), "arrayminus": rounded(below), "color": colour, "width": 4},
        mode="lines+markers",
        marker={"size": 9, "symbol": cycle(SYMBOLS, index), "color": colour},
        line={"width": 1.5, "dash": cycle(DASHES, index), "color": faded(colour, 0.6)},
        hovertemplate=f"{text}, %{{x}} tokens: %{{y}}<extra></extra>",
    )
