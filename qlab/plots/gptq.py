"""Figures of calibrated quantization: what the amount and the kind of calibration text are worth."""

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
    traces = [_curve([row for row in rows if row["text"] == text], text, value, i) for i, text in enumerate(texts)]
    label = METRICS.get(value, Metric(value)).label
    fig = figure(*traces, title=title, x="calibration tokens", y=label, caption=caption)
    for name, height in (lines or {}).items():
        line, words = {"color": GREY, "dash": "dot", "width": 1.5}, {"text": name, "font": {"color": GREY}}
        fig.add_hline(y=rounded(float(height)), line=line, annotation=words)
    sizes = sorted({row["tokens"] for row in rows})
    fig.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{n:,}" for n in sizes])
    return fig.update_yaxes(type="log", nticks=8)


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
