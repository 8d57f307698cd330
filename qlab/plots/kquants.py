"""Figures of GGUF's searches, of importance matrices, and of the speed of files."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from qlab.plots.theme import BLUE, GREY, ORANGE, SERIES, SYMBOLS, cycle, faded, figure, rounded

Row = Mapping[str, Any]
CONFIDENCE = 1.96
"""Standard errors on either side of a 95% interval."""


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


def decode_speed(rows: Sequence[Row], *, title: str = "Small files decode faster", caption: str = "") -> go.Figure:
    """Tokens a second by file size: rows have `name`, `size_bytes`, `decode_median` and `decode_p10`, drawn as a bar
    downwards; the dotted line is the speed of the largest file, were time in proportion to its bytes."""
    rows = sorted(rows, key=lambda row: row["size_bytes"])
    sizes, speeds = [row["size_bytes"] / 1e6 for row in rows], [row["decode_median"] for row in rows]
    dots = go.Scatter(
        name="measured",
        x=rounded(sizes),
        y=rounded(speeds),
        error_y={
            "type": "data", "symmetric": False, "array": [0] * len(rows), "thickness": 1, "width": 0,
            "arrayminus": rounded([row["decode_median"] - row["decode_p10"] for row in rows], 3),
            "color": faded(BLUE, 0.5),
        },
        text=[row["name"] for row in rows],
        mode="markers+text",
        textposition=["top center", "bottom center"] * (len(rows) // 2) + ["top center"] * (len(rows) % 2),
        textfont={"size": 10},
        cliponaxis=False,
        marker={"size": 9, "color": BLUE},
        hovertemplate="%{text}: %{x} MB, %{y} tokens/s<extra></extra>",
    )  # fmt: skip
    bound = go.Scatter(
        name="as its bytes say",
        x=rounded(sizes),
        y=rounded([speeds[-1] * sizes[-1] / size for size in sizes]),
        mode="lines",
        line={"color": GREY, "dash": "dot", "width": 1.5},
        hoverinfo="skip",
    )
    fig = figure(dots, bound, title=title, x="size of the file (MB)", y="tokens per second", caption=caption)
    return fig.update_yaxes(rangemode="tozero")
