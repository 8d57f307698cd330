"""Figures of Hessians: their spectrum, and what they say of each layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from qlab.plots.theme import DASHES, GREY, SERIES, SYMBOLS, as_array, cycle, figure, rounded

MAX_POINTS = 96
DIGITS = 2
"""Eigenvalues far below the largest are the difference of large sums: fewer digits of them are the same everywhere."""


def spectrum(
    eigenvalues: Mapping[str, Any],
    *,
    floors: Mapping[str, float] | None = None,
    title: str = "How many directions the inputs use",
    caption: str = "",
) -> go.Figure:
    """Eigenvalues [n] by rank, largest first, log–log, one line a name; `floors` are drawn across, such as damping."""
    traces = [_ranked(name, as_array(values), i) for i, (name, values) in enumerate(eigenvalues.items())]
    last = max(len(as_array(values)) for values in eigenvalues.values())
    traces += [_floor(name, height, last, i) for i, (name, height) in enumerate((floors or {}).items())]
    fig = figure(*traces, title=title, x="rank", y="eigenvalue", caption=caption)
    fig.update_xaxes(type="log", dtick=1)
    return fig.update_yaxes(type="log", dtick=2, exponentformat="power")


def _ranked(name: str, values: np.ndarray, index: int) -> go.Scatter:
    """The positive eigenvalues, at ranks that are evenly spaced on a log axis."""
    values = -np.sort(-values)
    ranks = np.unique(np.geomspace(1, len(values), MAX_POINTS).round().astype(int))
    ranks = ranks[values[ranks - 1] > 0]
    return go.Scatter(
        name=name,
        x=ranks.tolist(),
        y=rounded(values[ranks - 1], DIGITS),
        mode="lines",
        line={"width": 2, "dash": cycle(DASHES, index), "color": cycle(SERIES, index)},
        hovertemplate=f"{name}, rank %{{x}}: %{{y}}<extra></extra>",
    )


def _floor(name: str, height: float, last: int, index: int) -> go.Scatter:
    """A grey line across with its name at the left end, where the spectrum is far above."""
    return go.Scatter(
        name=name,
        x=[1, last],
        y=rounded([height, height], DIGITS),
        text=[name, ""],
        textposition="top right",
        textfont={"color": GREY, "size": 12},
        mode="lines+text",
        line={"color": GREY, "dash": cycle(("dot", "dash"), index), "width": 1.5},
        showlegend=False,
        hoverinfo="skip",
    )


def by_block(
    rows: Sequence[Mapping[str, Any]], value: str, *, title: str, y: str, line: str = "linear", caption: str = ""
) -> go.Figure:
    """`value` of each row against its `block`, one line for each `linear`."""
    names = list(dict.fromkeys(row[line] for row in rows))
    fig = figure(*(_through_depth(rows, value, line, name, i) for i, name in enumerate(names)),
                 title=title, x="block", y=y, caption=caption)  # fmt: skip
    return fig.update_yaxes(rangemode="tozero")


def _through_depth(rows: Sequence[Mapping[str, Any]], value: str, line: str, name: str, index: int) -> go.Scatter:
    mine = [row for row in rows if row[line] == name]
    return go.Scatter(
        name=name,
        x=[row["block"] for row in mine],
        y=rounded([float(row[value]) for row in mine]),
        mode="lines+markers",
        marker={"size": 6, "symbol": cycle(SYMBOLS, index), "color": cycle(SERIES, index)},
        line={"width": 1.5, "dash": cycle(DASHES, index), "color": cycle(SERIES, index)},
        hovertemplate=f"block %{{x}}, {name}: %{{y}}<extra></extra>",
    )
