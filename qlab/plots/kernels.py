"""Figures of the CPU kernels: what lies in which byte, what is spent on what, and the roofline of a machine."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from qlab.plots.theme import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SERIES, SYMBOLS, cycle, faded, figure, rounded

Row = Mapping[str, Any]
SHOWN_ROWS = 2
"""Rows of a tile that are drawn: the other fourteen repeat them."""
TICKS = [x * 10**n for n in range(5) for x in (1, 2, 5)]
KINDS = {
    "multiply": ("multiply", BLUE),
    "add": ("add", GREEN),
    "load": ("load and store", GREY),
    "unpack": ("unpack", AMBER),
    "scale": ("scale", PURPLE),
    "across": ("sum across lanes", ORANGE),
}


def planes(bits: int) -> list[int]:
    """Widths of the planes in which codes of so many bits lie, the low bits first: 5 is 4 and 1."""
    return [width for width in (8, 4, 2, 1) if bits & width]


def tile_layout(bits: int, *, title: str = "", caption: str = "") -> go.Figure:
    """The first two rows of a tile block of 16 × 32: one cell for a field of a byte, with the column it holds."""
    labels, fills, texts = [], [], []
    vector = 0
    for plane, width in enumerate(planes(bits)):
        fields = 8 // width
        for v in range(width):
            for q in range(fields):
                quad = fields * v + q
                first, last = width * q, width * q + width - 1
                where = f"bits {first}–{last}" if last > first else f"bit {first}"
                labels.append(f"v{vector}, {where}")
                fills.append([2 * plane + quad % 2] * (4 * SHOWN_ROWS))
                texts.append([4 * quad + i for _ in range(SHOWN_ROWS) for i in range(4)])
            vector += 1
    tints = [(BLUE, 0.07), (BLUE, 0.22), (ORANGE, 0.08), (ORANGE, 0.22)]  # the grey of text keeps 3:1 on each
    scale = [[(i + end) / 4, faded(*tint)] for i, tint in enumerate(tints) for end in (0, 1)]
    cells = go.Heatmap(
        x=list(range(4 * SHOWN_ROWS)),
        y=labels,
        z=fills,
        customdata=texts,
        colorscale=scale,
        zmin=-0.5,
        zmax=3.5,
        xgap=1,
        ygap=1,
        showscale=False,
        hovertemplate="%{y}, byte %{x}: column %{customdata}<extra></extra>",
    )
    # Text of its own trace has the colour of the page's text, in the dark as well.
    flat = [(byte, label, text) for label, row in zip(labels, texts, strict=True) for byte, text in enumerate(row)]
    x, y, words = (list(values) for values in zip(*flat, strict=True))
    columns = go.Scatter(x=x, y=y, text=words, mode="text", hoverinfo="skip", showlegend=False)
    height = 150 + 24 * len(labels)
    title = title or f"A tile of {bits}-bit codes"
    fig = figure(cells, columns, title=title, x="byte of the vector", caption=caption, height=height)
    for row in range(SHOWN_ROWS):
        fig.add_annotation(x=4 * row + 1.5, y=1, yref="paper", yanchor="bottom", text=f"row {row}", showarrow=False)
        fig.add_vline(x=4 * row + 3.5, line={"color": GREY, "width": 1.5})
    fig.update_xaxes(showgrid=False, zeroline=False, dtick=1, ticks="", range=[-0.5, 4 * SHOWN_ROWS - 0.5])
    ends = [len(labels) - 0.5, -0.5]
    fig.update_yaxes(showgrid=False, range=ends, ticks="", type="category", ticklabelstandoff=6)
    return fig.update_layout(margin_t=fig.layout.margin.t + 18)


def instruction_bars(
    counts: Mapping[str, Mapping[str, float]], *, title: str = "What the instructions do", caption: str = ""
) -> go.Figure:
    """One bar for each program, a part for each kind of instruction of `qlab.lanes.KINDS`."""
    names = list(counts)
    bars = [
        go.Bar(
            name=words,
            y=names,
            x=rounded([counts[name][kind] for name in names], 3),
            orientation="h",
            marker={"color": faded(colour, 0.85), "line": {"color": colour, "width": 1}},
            hovertemplate="%{y}, " + words + ": %{x}<extra></extra>",
        )
        for kind, (words, colour) in KINDS.items()
    ]
    height = 150 + 34 * len(names)
    fig = figure(*bars, title=title, x="instructions for 512 weights", caption=caption, height=height)
    _legend_below(fig.update_layout(barmode="stack", legend_traceorder="normal"), 118)
    return fig.update_yaxes(autorange="reversed", showgrid=False, type="category", ticks="", ticklabelstandoff=6)


def _legend_below(fig: go.Figure, bottom: int) -> None:
    """The legend in a margin of `bottom` pixels under the axis, where it has room on narrow pages too."""
    legend = {"y": 0, "yref": "container", "yanchor": "bottom", "x": 0, "xref": "container"}
    margin = {"t": fig.layout.margin.t - 24, "b": bottom}
    fig.update_layout(legend=legend, margin=margin, height=fig.layout.height + bottom - 48)


def roofline(
    rows: Sequence[Row], read: float, compute: float, *, title: str = "A roofline", caption: str = ""
) -> go.Figure:
    """GFLOP/s over FLOPs per byte of weights, both logarithmic: the two ceilings, and a mark for each measurement.

    Rows have `type`, `m` (tokens), `gbps` and `gflops`. read: GB/s; compute: GFLOP/s.
    """
    reach = [row["gflops"] / row["gbps"] for row in rows]
    knee = compute / read
    ends = [min(*reach, knee) / 1.6, knee, max(*reach, knee) * 1.6]
    roof = go.Scatter(
        name=f"read at {read:.3g} GB/s, at most {compute:.3g} GFLOP/s",
        x=rounded(ends, 3),
        y=rounded([min(compute, read * x) for x in ends], 3),
        mode="lines",
        line={"color": GREY, "width": 2},
        hoverinfo="skip",
    )
    marks = []
    for i, name in enumerate(dict.fromkeys(row["type"] for row in rows)):
        own = [(row, x) for row, x in zip(rows, reach, strict=True) if row["type"] == name]
        marks.append(
            go.Scatter(
                name=name,
                x=rounded([x for _, x in own], 3),
                y=rounded([row["gflops"] for row, _ in own], 3),
                text=[f"{row['m']}" for row, _ in own],
                mode="markers+text",
                textposition="bottom right",
                textfont={"size": 11},
                marker={"size": 10, "symbol": cycle(SYMBOLS, i), "color": cycle(SERIES, i)},
                hovertemplate=name + ", %{text} tokens: %{y} GFLOP/s<extra></extra>",
            )
        )
    fig = figure(roof, *marks, title=title, x="operations per byte of weights", y="GFLOP/s", caption=caption)
    axis = {"type": "log", "tickvals": TICKS, "ticktext": [f"{tick}" for tick in TICKS]}
    _legend_below(fig, 100)
    return fig.update_xaxes(**axis).update_yaxes(**axis)
