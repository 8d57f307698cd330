"""Figures of the GPU kernels: where a batch stands under the roof, what 4 bits gain, and what instructions are for."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from qlab.gpus import GPU, HALF, gain, seconds
from qlab.plots.theme import AMBER, BLUE, DASHES, GREEN, GREY, ORANGE, PURPLE, SERIES, cycle, faded, figure, rounded

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tensor core": (BLUE, ("HMMA", "HGMMA")),
    "convert": (ORANGE, ("I2F",)),
    "cut out bits": (AMBER, ("LOP3", "SHF", "PRMT")),
    "half-precision arithmetic": (PURPLE, ("HFMA2", "HMUL2")),
    "copy": (GREEN, ("LDG", "LDGSTS", "STS", "LDS", "LDSM")),
}
REST = "loop, addresses, waiting"


def _reached(gpu: GPU, M: int, N: int, K: int, weight: float) -> tuple[float, float]:
    """Operations per byte, and the most TFLOP/s that they allow."""
    moving, multiplying = seconds(gpu, M, N, K, weight)
    return gpu.balance * multiplying / moving, 2 * M * N * K / max(moving, multiplying) / 1e12


def batch_roofline(gpu: GPU, N: int, K: int, weight: float, *, title: str = "", caption: str = "") -> go.Figure:
    """A roofline with a slider for the tokens at once: where float16 weights stand, and where those of `weight` bytes.

    Layers [N, K]; both axes logarithmic: operations per byte moved, and TFLOP/s at most.
    """
    ends = [0.6, gpu.balance, 3000.0]
    roof = go.Scatter(name="the roof", x=rounded(ends, 3), mode="lines", line={"color": GREY, "width": 2},
                      y=rounded([min(gpu.flops, gpu.bandwidth * x) / 1e12 for x in ends], 3),
                      hoverinfo="skip", showlegend=False)  # fmt: skip
    frames = [
        go.Frame(name=str(M), data=_marks(gpu, M, N, K, weight), traces=[1, 2],
                 layout={"annotations": [_told(gpu, M, N, K, weight)]})
        for M in BATCHES
    ]  # fmt: skip
    fig = figure(roof, *frames[0].data, title=title or gpu.name, x="operations per byte", y="TFLOP/s at most",
                 caption=caption, height=460)  # fmt: skip
    fig.frames = frames
    at_once = {"mode": "immediate", "frame": {"duration": 0}, "transition": {"duration": 0}}
    steps = [{"label": str(M), "method": "animate", "args": [[str(M)], at_once]} for M in BATCHES]
    slider = {"steps": steps, "currentvalue": {"prefix": "tokens at once: ", "font": {"size": 13}}, "pad": {"t": 62},
              "len": 0.94, "x": 0.03, "tickcolor": GREY, "bordercolor": GREY, "bgcolor": faded(GREY, 0.25),
              "activebgcolor": BLUE, "font": {"color": GREY, "size": 11}}  # fmt: skip
    fig.update_layout(sliders=[slider], annotations=[_told(gpu, 1, N, K, weight)])
    fig.update_layout(legend={"x": 0.98, "y": 0.05, "xanchor": "right", "yanchor": "bottom", "orientation": "v"})
    decades = [1, 10, 100, 1000]
    axis = {"type": "log", "tickvals": decades, "ticktext": [str(tick) for tick in decades]}
    fig.update_xaxes(**axis).update_yaxes(**axis, range=[0.2, 3.7])  # room for the words above the roof
    return fig.update_layout(margin_b=130, margin_t=fig.layout.margin.t - 20)


def _marks(gpu: GPU, M: int, N: int, K: int, weight: float) -> list[go.Scatter]:
    def mark(name: str, size: float, colour: str, symbol: str) -> go.Scatter:
        x, y = _reached(gpu, M, N, K, size)
        told = name + ": %{y} TFLOP/s at %{x} operations a byte<extra></extra>"
        marker = {"size": 13, "symbol": symbol, "color": colour}
        return go.Scatter(name=name, x=rounded([x], 3), y=rounded([y], 3), mode="markers", marker=marker,
                          hovertemplate=told)  # fmt: skip

    return [mark("float16", HALF, ORANGE, "diamond"), mark(f"{weight:.3g} bytes a weight", weight, BLUE, "circle")]


def _told(gpu: GPU, M: int, N: int, K: int, weight: float) -> dict[str, Any]:
    text = f"{M} token{'s' if M > 1 else ''}: at most <b>{gain(gpu, M, N, K, weight):.2f} ×</b> as fast"
    return {"x": 0.02, "y": 0.98, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top", "text": text,
            "showarrow": False, "font": {"size": 14}}  # fmt: skip


def gain_over_batch(
    gpus: Sequence[GPU], N: int, K: int, weight: float, *, title: str = "What 4 bits can gain", caption: str = ""
) -> go.Figure:
    """How many times faster than float16, at most, over the tokens at once; a line for each card."""
    lines = [
        go.Scatter(
            name=gpu.name,
            x=list(BATCHES),
            y=rounded([gain(gpu, M, N, K, weight) for M in BATCHES], 3),
            mode="lines+markers",
            line={"color": cycle(SERIES, i), "dash": cycle(DASHES, i)},
            hovertemplate=gpu.name + ", %{x} tokens: %{y} ×<extra></extra>",
        )
        for i, gpu in enumerate(gpus)
    ]
    fig = figure(*lines, title=title, x="tokens at once", y="times as fast as float16", caption=caption)
    fig.update_xaxes(type="log", tickvals=list(BATCHES), ticktext=[str(M) for M in BATCHES])
    return fig.update_yaxes(range=[0, 4.2])


def per_weight(row: Mapping[str, Any]) -> dict[str, float]:
    """Instructions of a row of the record by what they are for, each per weight of a thread."""
    told = {kind: sum(row["loop"].get(name, 0) for name in made[1]) for kind, made in KINDS.items()}
    return {kind: n / row["weights"] for kind, n in (told | {REST: row["total"] - sum(told.values())}).items()}


def weight_instructions(rows: Sequence[Mapping[str, Any]], *, title: str = "", caption: str = "") -> go.Figure:
    """A bar for each kernel of the record: instructions in the loop for one weight of a thread."""
    names = [row["name"] for row in rows]
    counts = [per_weight(row) for row in rows]
    bars = [
        go.Bar(
            name=kind,
            y=names,
            x=rounded([count[kind] for count in counts], 3),
            orientation="h",
            marker={"color": faded(colour, 0.85), "line": {"color": colour, "width": 1}},
            hovertemplate="%{y}, " + kind + ": %{x}<extra></extra>",
        )
        for kind, colour in [(kind, made[0]) for kind, made in KINDS.items()] + [(REST, GREY)]
    ]
    fig = figure(*bars, title=title, x="instructions for one weight", caption=caption, height=200 + 34 * len(names))
    legend = {"y": 0, "yref": "container", "yanchor": "bottom", "x": 0, "xref": "container", "traceorder": "normal"}
    fig.update_layout(barmode="stack", legend=legend, margin={"t": fig.layout.margin.t - 24, "b": 118},
                      height=fig.layout.height + 40)  # fmt: skip
    return fig.update_yaxes(autorange="reversed", showgrid=False, type="category", ticks="", ticklabelstandoff=6)
