"""Where the memory goes: weights, KV cache and runtime against the size of a device."""

from collections.abc import Mapping

import plotly.graph_objects as go

from qlab.memory import MemoryEstimate
from qlab.plots.theme import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, faded, figure, rounded

PARTS = {
    "linear_bytes": ("linear layers", BLUE),
    "embedding_bytes": ("embeddings", GREEN),
    "other_bytes": ("norms", PURPLE),
    "kv_bytes": ("KV cache", ORANGE),
    "runtime_bytes": ("runtime, assumed", AMBER),
}
GIB = 1.073741824
"""Gigabytes in a GiB: devices are sold in GiB."""


def memory_stack(
    estimates: Mapping[str, MemoryEstimate],
    devices: Mapping[str, float] | None = None,
    *,
    title: str = "What has to fit",
    caption: str = "A bar that ends left of a dashed line fits that device.",
) -> go.Figure:
    """One stacked bar per named estimate in GB; `devices` maps a name to its GiB, drawn as a line."""
    traces = [_part(estimates, key) for key in PARTS if any(getattr(e, key) for e in estimates.values())]
    height = 200 + 40 * max(len(estimates), 2)
    fig = figure(*traces, title=title, x="memory (GB)", caption=caption, height=height)
    # device names stand above the plot, so the legend goes below
    fig.update_layout(barmode="stack", legend={"traceorder": "normal", "y": -60 / (height - 160), "yanchor": "top"})
    for name, gib in (devices or {}).items():
        line = {"color": GREY, "dash": "dash", "width": 1.5}
        label = {"text": name, "font": {"size": 12}, "y": 1, "yanchor": "bottom", "xanchor": "center"}
        fig.add_vline(x=rounded(gib * GIB), line=line, annotation=label)
    return fig.update_yaxes(autorange="reversed", showgrid=False, type="category", ticks="", ticklabelstandoff=6)


def _part(estimates: Mapping[str, MemoryEstimate], key: str) -> go.Bar:
    label, colour = PARTS[key]
    return go.Bar(
        name=label,
        y=list(estimates),
        x=rounded([getattr(e, key) / 1e9 for e in estimates.values()]),
        orientation="h",
        marker={"color": faded(colour, 0.8), "line": {"width": 0}},
        hovertemplate=f"{label}: %{{x}} GB<extra>%{{y}}</extra>",
    )
