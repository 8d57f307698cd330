"""Figures of AWQ's search."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from qlab.plots.theme import DASHES, SERIES, SYMBOLS, cycle, figure, rounded

DIGITS = 3


def alpha_curves(
    losses: Mapping[str, Sequence[float]],
    alphas: Sequence[float],
    *,
    title: str = "How far to scale",
    y: str = "error, plain rounding: 1",
    caption: str = "",
    log: bool = False,
) -> go.Figure:
    """Losses by α, one line a name, each with a marker at its least."""
    fig = figure(
        *(trace for i, (name, values) in enumerate(losses.items()) for trace in _curve(name, values, alphas, i)),
        title=title, x="α", y=y, caption=caption,
    )  # fmt: skip
    return fig.update_yaxes(type="log" if log else "linear", **({} if log else {"rangemode": "tozero"}))


def _curve(name: str, values: Sequence[float], alphas: Sequence[float], index: int) -> tuple[go.Scatter, go.Scatter]:
    colour, least = cycle(SERIES, index), min(range(len(values)), key=values.__getitem__)
    line = go.Scatter(
        name=name,
        x=rounded(list(alphas), DIGITS),
        y=rounded(list(values), DIGITS),
        mode="lines",
        line={"width": 2, "dash": cycle(DASHES, index), "color": colour},
        hovertemplate=f"{name}, α %{{x}}: %{{y}}<extra></extra>",
    )
    mark = go.Scatter(
        x=[round(alphas[least], 4)],
        y=rounded([values[least]], DIGITS),
        mode="markers",
        marker={"size": 9, "symbol": cycle(SYMBOLS, index), "color": colour},
        showlegend=False,
        hoverinfo="skip",
    )
    return line, mark
