"""Figures of weights and activations: histogram, staircase, heatmap, channel magnitudes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from qlab.grid import Grid
from qlab.plots.theme import (
    BLUE,
    GREY,
    HEIGHT,
    ORANGE,
    SEQUENTIAL,
    SERIES,
    as_array,
    cycle,
    diverging,
    faded,
    figure,
    finish,
    rounded,
)

MAX_CELLS = 128
"""Most rows or columns of a heatmap: 128 × 128 cells are about 100 kB of JSON."""


def histogram(
    values: Any,
    *,
    levels: Any = None,
    bins: int = 101,
    log: bool = False,
    title: str = "Distribution of the weights",
    x: str = "weight",
    caption: str = "",
) -> go.Figure:
    """Share of weights per bin, of one array or several by name; quantization `levels` are vertical lines."""
    named = values if isinstance(values, Mapping) else {"weights": values}
    arrays = {name: as_array(v).ravel() for name, v in named.items()}
    edges = _edges(list(arrays.values()), bins)
    shares = {name: _shares(a, edges) for name, a in arrays.items()}
    highest = max(float(s.max()) for s in shares.values())
    # on a logarithmic axis the lowest thing seen is a single weight of the largest array
    lowest = 0.5 / max(a.size for a in arrays.values()) if log else 0.0
    traces = [_outline(name, edges, s, cycle(SERIES, i), lowest) for i, (name, s) in enumerate(shares.items())]
    if levels is not None:
        traces.append(_level_lines(as_array(levels).ravel(), lowest, highest))
    fig = figure(*traces, title=title, x=x, y="share of weights per bin", caption=caption)
    if log:
        fig.update_yaxes(type="log", range=rounded(np.log10([lowest, highest * 1.3])), dtick=1, exponentformat="power")
    return fig


def _edges(arrays: Sequence[NDArray[np.float64]], bins: int) -> NDArray[np.float64]:
    """Common bin edges over all finite values."""
    finite = np.concatenate([a[np.isfinite(a)] for a in arrays])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + 1, bins + 1)


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.histogram(values, edges)[0] / values.size


def _outline(
    name: str, edges: NDArray[np.float64], shares: NDArray[np.float64], colour: str, lowest: float
) -> go.Scatter:
    """A filled step line: half the size of bars, and several stay readable on top of each other."""
    steps = np.maximum(np.append(shares, shares[-1]), lowest)
    return go.Scatter(
        name=name,
        x=rounded(edges),
        y=rounded(steps),
        line={"shape": "hv", "width": 1.5, "color": colour},
        fill="tozeroy",
        fillcolor=faded(colour, 0.25),
        hovertemplate="%{x}: %{y}<extra></extra>",
    )


def _level_lines(levels: NDArray[np.float64], low: float, high: float) -> go.Scatter:
    """All levels as one trace: a gap (None) ends each line."""
    distinct = np.unique(levels[np.isfinite(levels)])
    x = [v for level in rounded(distinct) for v in (level, level, None)]
    y = [*rounded([low, high]), None]
    line = {"color": faded(ORANGE, 0.9 if len(distinct) <= 32 else 0.3), "width": 1}
    name = f"{len(distinct)} levels"
    return go.Scatter(name=name, x=x, y=y * len(distinct), mode="lines", line=line, hoverinfo="x")


def staircase(
    grid: Grid | Sequence[float],
    *,
    scale: float = 1.0,
    zero: float = 0.0,
    offset: float = 0.0,
    title: str = "Rounding to the grid",
    caption: str = "Above: what each weight becomes. Below: the error, at most half a step inside the grid.",
) -> go.Figure:
    """x → x_hat = scale·(level − zero) + offset for the nearest level, above the error x_hat − x."""
    levels = as_array(grid.levels if isinstance(grid, Grid) else grid)
    levels = scale * (np.unique(levels[np.isfinite(levels)]) - zero) + offset
    x, x_hat = _steps(np.sort(levels))
    fig = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.64, 0.36])
    ends = rounded(x[[0, -1]])
    dotted = {"color": GREY, "width": 1, "dash": "dot"}
    fig.add_scatter(x=ends, y=ends, name="no rounding", mode="lines", line=dotted, row=1, col=1)
    _add_line(fig, 1, "x_hat", x, x_hat, BLUE)
    _add_line(fig, 2, "error", x, x_hat - x, ORANGE)
    finish(fig, title, "", "x_hat", caption, HEIGHT + 80)
    fig.update_yaxes(title_text="error", row=2)
    return fig.update_xaxes(title_text="x", row=2)


def _steps(levels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of the staircase: each level from one midpoint to the next, and a step past both ends."""
    midpoints = (levels[1:] + levels[:-1]) / 2
    margin = (levels[-1] - levels[0]) / max(len(levels) - 1, 1) or 1.0
    x = np.concatenate([[levels[0] - margin], np.repeat(midpoints, 2), [levels[-1] + margin]])
    return x, np.repeat(levels, 2)


def _add_line(fig: go.Figure, row: int, name: str, x: NDArray[np.float64], y: NDArray[np.float64], colour: str) -> None:
    line = {"color": colour, "width": 2}
    # the corners of a difference carry rounding noise far below the step; a grid has at most 256 levels
    y = np.where(np.abs(y) < np.ptp(x) * np.finfo(np.float32).eps, 0.0, y)
    fig.add_scatter(x=rounded(x), y=rounded(y), name=name, mode="lines", line=line, row=row, col=1)


def heatmap(
    matrix: Any,
    *,
    signed: bool = True,
    title: str = "Weight matrix",
    x: str = "in channel",
    y: str = "out channel",
    value: str = "weight",
    caption: str = "",
    cells: int = MAX_CELLS,
) -> go.Figure:
    """A matrix [rows, columns] in colour; above `cells` of either a cell shows its entry of largest magnitude.

    `signed` puts zero in the middle of a diverging scale; otherwise colour is magnitude from zero up.
    """
    W = as_array(matrix)
    blocks = tuple(-(-n // cells) for n in W.shape)
    pooled = pool_absmax(W if signed else np.abs(W), blocks)  # [≤ cells, ≤ cells]
    colours = diverging(pooled) if signed else {"colorscale": SEQUENTIAL, "zmin": 0}
    trace = go.Heatmap(
        z=rounded(pooled, 3),
        x0=(blocks[1] - 1) / 2,
        dx=blocks[1],
        y0=(blocks[0] - 1) / 2,
        dy=blocks[0],
        colorbar={"title": {"text": value}, "thickness": 12, "outlinewidth": 0},
        hovertemplate=f"{y} %{{y}}, {x} %{{x}}<br>{value} %{{z}}<extra></extra>",
        **colours,
    )
    if blocks != (1, 1):
        caption = f"{caption} Each cell is the largest magnitude of {blocks[0]} × {blocks[1]} entries.".strip()
    fig = figure(trace, title=title, x=x, y=y, caption=caption, height=HEIGHT + 60)
    fig.update_xaxes(showgrid=False, zeroline=False)
    return fig.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)


def pool_absmax(W: NDArray[np.float64], blocks: tuple[int, ...]) -> NDArray[np.float64]:
    """The signed entry of largest magnitude in each block of (rows, columns), ragged edges included."""
    rows, columns = (-(-n // b) for n, b in zip(W.shape, blocks, strict=True))
    padding = [(0, n * b - size) for n, b, size in zip((rows, columns), blocks, W.shape, strict=True)]
    padded = np.pad(W, padding)  # zeros never win, except where all are zero
    cells = padded.reshape(rows, blocks[0], columns, blocks[1]).swapaxes(1, 2).reshape(rows, columns, -1)
    largest = np.abs(cells).argmax(-1)[..., None]
    return np.take_along_axis(cells, largest, -1)[..., 0]


def outlier_map(
    magnitudes: Any,
    *,
    order: str = "channel",
    log: bool = False,
    title: str = "Magnitude of each input channel",
    y: str = "mean |X|",
    caption: str = "",
) -> go.Figure:
    """Magnitude per channel [in], in order of "channel" or "sorted", the largest compared with the median."""
    values = as_array(magnitudes).ravel()
    index = np.argsort(-values, kind="stable") if order == "sorted" else np.arange(values.size)
    top, median = float(values.max()), float(np.median(values))
    bars = go.Scatter(
        x=list(range(values.size)),
        y=rounded(values[index]),
        customdata=index.tolist(),
        mode="lines",
        line={"color": BLUE, "width": 1, "shape": "hvh"},
        fill="tozeroy",
        fillcolor=faded(BLUE, 0.3),
        hovertemplate="channel %{customdata}: %{y}<extra></extra>",
    )
    x = "channel, largest first" if order == "sorted" else "input channel"
    fig = figure(bars, title=title, x=x, y=y, caption=caption)
    fig.update_yaxes({"type": "log", "dtick": 1} if log else {"rangemode": "tozero"})
    fig.add_hline(y=rounded(median), line={"color": ORANGE, "dash": "dash", "width": 1.5})
    _label_outlier(fig, int(index.tolist().index(int(values.argmax()))), int(values.argmax()), top, median)
    return fig


def _label_outlier(fig: go.Figure, position: int, channel: int, top: float, median: float) -> None:
    """Name the largest channel at its peak, on the side of it that has room."""
    ratio = f"{top / median:.3g} × the median" if median else "the median is 0"
    left = position > fig.data[0].x[-1] / 2
    fig.add_annotation(
        x=position,
        y=rounded(float(np.log10(top)) if fig.layout.yaxis.type == "log" else top),
        text=f"channel {channel}: {top:.3g}<br>{ratio}",
        align="right" if left else "left",
        showarrow=False,
        xanchor="right" if left else "left",
        xshift=-8 if left else 8,
        yanchor="top",
        font={"color": ORANGE},
    )
