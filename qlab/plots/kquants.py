"""Figures of GGUF's searches, of importance matrices, and of the speed of files."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from qlab.plots.theme import BLUE, GREY, ORANGE, SERIES, SYMBOLS, cycle, faded, figure, rounded

Row = Mapping[str, Any]
CONFIDENCE = 1.96
"""Standard errors on either side of a 95% interval."""
ROW_HEIGHT = 30
"""Pixels of a bar and the room around it."""


def search_steps(
    errors: Sequence[float],
    best: Sequence[float],
    start: float,
    *,
    title: str = "A search, candidate by candidate",
    y: str = "weighted error, min-max: 1",
    caption: str = "",
) -> go.Figure:
    """Each candidate's error as a dot, the best so far as stairs; both as shares of `start`, which is candidate 0."""
    numbers = list(range(len(errors) + 1))
    dots = go.Scatter(
        name="candidate",
        x=numbers,
        y=rounded([1.0, *(e / start for e in errors)]),
        mode="markers",
        marker={"size": 9, "color": BLUE},
        hovertemplate="candidate %{x}: %{y}<extra></extra>",
    )
    stairs = go.Scatter(
        name="best so far",
        x=numbers,
        y=rounded([1.0, *(b / start for b in best)]),
        mode="lines",
        line={"shape": "hv", "width": 2, "color": ORANGE},
        hovertemplate="after candidate %{x}: %{y}<extra></extra>",
    )
    fig = figure(stairs, dots, title=title, x="candidate (0: min-max)", y=y, caption=caption)
    return fig.update_yaxes(rangemode="tozero")


def kl_changes(
    rows: Sequence[Row], *, title: str = "What an importance matrix changes", caption: str = ""
) -> go.Figure:
    """Change of KL by type with its 95% interval, one mark a matrix, in % of `plain`, the KL without.

    Rows have `type`, `matrix`, `kl_change`, `kl_change_se` and `plain`.
    """
    traces = []
    for i, matrix in enumerate(dict.fromkeys(row["matrix"] for row in rows)):
        own = [row for row in rows if row["matrix"] == matrix]
        half = [100 * CONFIDENCE * row["kl_change_se"] / row["plain"] for row in own]
        traces.append(
            go.Scatter(
                name=matrix,
                x=[row["type"] for row in own],
                y=rounded([100 * row["kl_change"] / row["plain"] for row in own], 3),
                error_y={"type": "data", "array": rounded(half, 3), "thickness": 1.5, "width": 4},
                mode="markers",
                marker={"size": 10, "symbol": cycle(SYMBOLS, i), "color": cycle(SERIES, i)},
                hovertemplate="%{x}, " + matrix + ": %{y} ± %{error_y.array} %<extra></extra>",
            )
        )
    fig = figure(*traces, title=title, y="change of KL (%)", caption=caption)
    fig.update_layout(scattermode="group", scattergap=0.7)
    return fig.add_hline(y=0, line={"color": GREY, "dash": "dash", "width": 1.5})


def decode_speed(rows: Sequence[Row], *, title: str = "Tokens a second", caption: str = "") -> go.Figure:
    """Tokens a second as bars, the largest file first, with the slow tenth's speed as the end of an error bar.

    Rows have `name`, `size_bytes`, `decode_median` and `decode_p10`. Diamonds: what the largest file's speed would
    become if time went by bytes alone.
    """
    rows = sorted(rows, key=lambda row: -row["size_bytes"])
    names = [f"{row['name']}, {row['size_bytes'] / 1e6:.0f} MB" for row in rows]
    speeds, slow = ([row[key] for row in rows] for key in ("decode_median", "decode_p10"))
    late = [fast - p10 for fast, p10 in zip(speeds, slow, strict=True)]
    bars = go.Bar(
        name="measured",
        y=names,
        x=rounded(speeds, 3),
        orientation="h",
        marker={"color": faded(BLUE, 0.75), "line": {"color": BLUE, "width": 1}},
        error_x={
            "type": "data", "symmetric": False, "array": [0] * len(rows), "arrayminus": rounded(late, 3),
            "color": GREY, "thickness": 1.5,
        },
        text=[f" {speed:.3g} " for speed in speeds],
        textposition="inside",
        insidetextanchor="start",
        insidetextfont={"color": "white"},
        hovertemplate="%{y}: %{x} tokens/s<extra></extra>",
    )  # fmt: skip
    bytes_alone = go.Scatter(
        name="if time went by bytes alone",
        y=names,
        x=rounded([speeds[0] * rows[0]["size_bytes"] / row["size_bytes"] for row in rows], 3),
        mode="markers",
        marker={"size": 9, "symbol": "diamond", "color": ORANGE},
        hovertemplate="%{y}: %{x} tokens/s by bytes alone<extra></extra>",
    )
    height = 150 + ROW_HEIGHT * len(rows)
    fig = figure(bars, bytes_alone, title=title, x="tokens per second", caption=caption, height=height)
    return fig.update_yaxes(autorange="reversed", showgrid=False, type="category", ticks="", ticklabelstandoff=6)
