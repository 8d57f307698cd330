"""The look every figure shares: one palette for light and dark pages, rounded data, titles and captions.

A committed figure cannot know the page it lands on, so backgrounds are transparent and every colour keeps a
contrast of 3:1 or more against white and against #121212 alike.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

# The Okabe-Ito hues (https://jfly.uni-koeln.de/color), moved to luminances that both backgrounds carry.
BLUE = "#2480c8"
ORANGE = "#d9661f"
GREEN = "#119c74"
PURPLE = "#b263a6"
AMBER = "#a98312"
TEAL = "#3a94a8"
GREY = "#7a7a7a"
"""Text, axes, neutral marks: the one grey with equal contrast (4.3:1) to white and to #121212."""

SERIES = (BLUE, ORANGE, GREEN, PURPLE, AMBER, TEAL)
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GRID = "rgba(128, 128, 128, 0.22)"
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

# Zero is transparent, so it has the colour of the page, whatever that is.
DIVERGING = [
    [0.0, "rgba(36, 128, 200, 1)"],
    [0.5, "rgba(36, 128, 200, 0)"],
    [0.5, "rgba(217, 102, 31, 0)"],
    [1.0, "rgba(217, 102, 31, 1)"],
]
SEQUENTIAL = [
    [0.0, "rgba(36, 128, 200, 0)"],
    [0.6, "rgba(36, 128, 200, 0.9)"],
    [1.0, "rgba(217, 102, 31, 1)"],
]

DIGITS = 4
"""Significant digits that survive other thread counts and instruction sets (measured)."""

HEIGHT = 380
CAPTION_WIDTH = 100  # characters in a line of 12 px text across a 700 px column

_AXIS = {
    "gridcolor": GRID,
    "linecolor": GREY,
    "zerolinecolor": "rgba(128, 128, 128, 0.5)",
    "ticks": "outside",
    "tickcolor": GRID,
    "automargin": True,
    "title": {"standoff": 10, "font": {"size": 13}},
    "tickfont": {"size": 12},
}
_LAYOUT = {
    "paper_bgcolor": "rgba(0, 0, 0, 0)",
    "plot_bgcolor": "rgba(0, 0, 0, 0)",
    "font": {"family": FONT, "size": 13, "color": GREY},
    "colorway": list(SERIES),
    "title": {"x": 0, "xref": "paper", "yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 14}},
    "legend": {
        "orientation": "h",
        "x": 0,
        "y": 1,
        "xanchor": "left",
        "yanchor": "bottom",
        "font": {"size": 12},
    },
    "xaxis": _AXIS,
    "yaxis": _AXIS,
    "hoverlabel": {"bgcolor": "#2b2b2b", "bordercolor": GREY, "font": {"color": "#f2f2f2", "family": FONT}},
    "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": "rgba(128, 128, 128, 0.5)", "activecolor": GREY},
    "coloraxis": {"colorbar": {"outlinewidth": 0}},
    "bargap": 0.25,
}
TEMPLATE = go.layout.Template(layout=_LAYOUT)


def as_array(values: Any) -> NDArray[np.float64]:
    """Tensor, array or list as float64; bfloat16 included, which numpy lacks."""
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def rounded(values: Any, digits: int = DIGITS) -> Any:
    """`values` at `digits` significant digits as nested lists: a committed figure is the same everywhere.

    NaN and infinity become None, which plotly leaves blank. An array plotly would store as base64.
    """
    if isinstance(values, float):
        return _round(values, digits)
    return _round_all(as_array(values).tolist(), digits)


def figure(*traces: Any, **labels: Any) -> go.Figure:
    """A figure of these traces in the shared theme; `labels` are those of `finish`."""
    return finish(go.Figure(data=traces), **labels)


def finish(fig: go.Figure, title: str, x: str = "", y: str = "", caption: str = "", height: int = HEIGHT) -> go.Figure:
    """`fig` with the theme, its title, axis labels, and a caption under the title that says what to see."""
    lines = textwrap.wrap(caption, CAPTION_WIDTH)
    legend = 24 if sum(trace.showlegend is not False and bool(trace.name) for trace in fig.data) > 1 else 0
    head = {
        "text": title,
        "font": {"size": 16},
        "subtitle": {"text": "<br>".join(lines), "font": {"size": 12}},
    }
    fig.update_layout(template=TEMPLATE, title=head, height=height, showlegend=bool(legend))
    fig.update_layout(margin={"l": 56, "r": 24, "b": 48, "t": 50 + 16 * len(lines) + legend})
    fig.update_layout(xaxis_title_text=x, yaxis_title_text=y)
    return fig


def diverging(matrix: Any) -> dict[str, Any]:
    """Colour settings that put zero in the middle of the scale, whatever the extremes of `matrix`."""
    finite = np.abs(as_array(matrix))
    largest = rounded(float(np.max(finite[np.isfinite(finite)], initial=0.0))) or 1.0
    return {"colorscale": DIVERGING, "zmin": -largest, "zmax": largest, "zmid": 0}


def cycle(items: Sequence[str], index: int) -> str:
    """The item for series `index`, starting again after the last."""
    return items[index % len(items)]


def faded(colour: str, alpha: float) -> str:
    """A hex colour made transparent, as plotly writes it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


def _round_all(values: Any, digits: int) -> Any:
    return [_round_all(v, digits) for v in values] if isinstance(values, list) else _round(values, digits)


def _round(value: float, digits: int) -> float | None:
    """Adding 0.0 turns -0.0 into 0.0."""
    return float(f"{value:.{digits}g}") + 0.0 if math.isfinite(value) else None
