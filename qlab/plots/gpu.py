"""Figures of the GPU kernels: what was measured beside what bytes and operations allow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from qlab.plots.kernels import _legend_below
from qlab.plots.theme import BLUE, DASHES, GREY, SERIES, SYMBOLS, cycle, figure, rounded

Row = Mapping[str, Any]
BATCHES = tuple(2**i for i in range(11))


@dataclass(frozen=True)
class Device:
    """What a GPU reaches: GB/s of memory, and float16 TFLOP/s of its tensor cores."""

    name: str
    gbps: float
    tflops: float

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> "Device":
        """The ceilings that a run of `qlab bench gpu` measured."""
        found = run["ceilings"]
        name = run["made"]["hardware"].split(",")[0]
        return cls(name, found["copy_gbps"]["median"], found["matmul_tflops"]["median"])


H200 = Device("H200", 4300.0, 790.0)
"""About what an H200 reaches in copies and products (its data sheet says 4800 and 989)."""


def seconds(batch: int, shape: tuple[int, int], bits_per_weight: float, device: Device) -> float:
    """The roofline: bytes of W [out, in], X and Y at the bandwidth, or operations at the rate; the longer of both."""
    out, columns = shape
    nbytes = out * columns * bits_per_weight / 8 + 2 * batch * (out + columns)
    return max(nbytes / device.gbps / 1e9, 2 * batch * out * columns / device.tflops / 1e12)


def limit(batch: int, shape: tuple[int, int], bits_per_weight: float, device: Device) -> float:
    """How many times faster than float16 a product of quantized weights can be: 16 / bits at most, then 1."""
    return seconds(batch, shape, 16, device) / seconds(batch, shape, bits_per_weight, device)


def gpu_ratios(
    rows: Sequence[Row] = (),
    device: Device = H200,
    shape: tuple[int, int] = (8192, 28672),
    bits_per_weight: float = 4 + 16 / 128,
    *,
    title: str = "",
    caption: str = "",
) -> go.Figure:
    """Speed-up over cuBLAS in float16 against the batch, both logarithmic: the limit, and a line for each shape.

    rows: those of one type, of `qlab bench gpu`; none draws the limit alone.
    """
    curve = go.Scatter(
        name=f"limit, {device.name} at {device.gbps:.4g} GB/s and {device.tflops:.3g} TFLOP/s",
        x=list(BATCHES),
        y=rounded([limit(m, shape, bits_per_weight, device) for m in BATCHES], 3),
        mode="lines",
        line={"color": GREY, "width": 2},
        hovertemplate="batch %{x}: at most %{y}×<extra></extra>",
    )
    lines = []
    for i, (n, k) in enumerate(dict.fromkeys((row["n"], row["k"]) for row in rows)):
        own = sorted((row for row in rows if (row["n"], row["k"]) == (n, k)), key=lambda row: row["m"])
        lines.append(
            go.Scatter(
                name=f"{n} × {k}",
                x=[row["m"] for row in own],
                y=rounded([row["vs_cublas"] for row in own], 3),
                mode="lines+markers",
                line={"color": cycle(SERIES, i), "width": 1.5, "dash": cycle(DASHES, i)},
                marker={"size": 8, "symbol": cycle(SYMBOLS, i)},
                hovertemplate=f"{n} × {k}, batch %{{x}}: %{{y}}×<extra></extra>",
            )
        )
    title = title or f"{bits_per_weight:.4g} bits a weight against float16"
    fig = figure(curve, *lines, title=title, x="batch", y="times as fast", caption=caption)
    fig.add_hline(y=1, line={"color": GREY, "width": 1, "dash": "dot"})
    _legend_below(fig, 100)
    fig.update_xaxes(type="log", tickvals=list(BATCHES), ticktext=[f"{m}" for m in BATCHES])
    return fig.update_yaxes(type="log", tickvals=[0.25, 0.5, 1, 2, 3, 4], ticktext=["¼", "½", "1", "2", "3", "4"])


def gpu_bandwidth(rows: Sequence[Row], *, title: str = "", caption: str = "") -> go.Figure:
    """Share of the limit that one batch's rows reach, a bar for each shape and type."""
    names = [f"{row['type']}, {row['n']} × {row['k']}" for row in rows]
    bars = go.Bar(
        x=rounded([row["fraction_of_limit"] for row in rows], 3),
        y=names,
        orientation="h",
        marker={"color": BLUE},
        hovertemplate="%{y}: %{x} of the limit<extra></extra>",
    )
    title = title or "How much of the limit is reached"
    height = 130 + 30 * len(names)
    fig = figure(bars, title=title, x="share of what bytes and operations allow", caption=caption, height=height)
    fig.update_xaxes(range=[0, 1.05])
    return fig.update_yaxes(autorange="reversed", type="category", ticks="")
