"""Figures of packing: what depends on the bits of a code, from 1 to 8."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from qlab.plots.theme import SERIES, SYMBOLS, cycle, figure, rounded


def by_bits(
    series: Mapping[str, Mapping[int, float]], *, y: str, title: str = "", caption: str = "", dashed: Sequence[str] = ()
) -> go.Figure:
    """One line for each name, a mark for each width that it has; `dashed` names those drawn so."""
    lines = [
        go.Scatter(
            name=name,
            x=list(values),
            y=rounded(list(values.values()), 3),
            mode="lines+markers",
            line={"color": cycle(SERIES, i), "width": 2, "dash": "dash" if name in dashed else "solid"},
            marker={"size": 9, "symbol": cycle(SYMBOLS, i), "color": cycle(SERIES, i)},
            hovertemplate=name + ", %{x} bits: %{y}<extra></extra>",
        )
        for i, (name, values) in enumerate(series.items())
    ]
    fig = figure(*lines, title=title, x="bits of a code", y=y, caption=caption)
    bottom = 56 + 14 * len(series)  # the legend below the axis, a line for each name on a narrow page
    legend = {"y": 0, "yref": "container", "yanchor": "bottom", "x": 0, "xref": "container"}
    fig.update_layout(legend=legend, margin={"t": fig.layout.margin.t - 24, "b": bottom})
    fig.update_layout(height=fig.layout.height + bottom - 48)
    return fig.update_xaxes(dtick=1).update_yaxes(rangemode="tozero")
