"""Loss against the position in the window: why the protocol decides the perplexity."""

from collections.abc import Sequence

import plotly.graph_objects as go

from qlab.plots.theme import BLUE, figure, rounded


def loss_by_position(
    edges: Sequence[int],
    losses: Sequence[float],
    *,
    title: str = "A token with little before it is hard",
    caption: str = "Mean loss of the predictions made from each stretch of positions. Every protocol is a choice of "
    "which of these to count.",
) -> go.Figure:
    """Mean loss (nats per token) of the predictions at positions edges[i] to edges[i + 1] − 1, as a staircase.

    Positions are drawn on a log axis from 1: position p stands at p + 1 tokens of context.
    """
    steps = go.Scatter(
        x=[edge + 1 for edge in edges],
        y=[*rounded(losses), rounded(losses)[-1]],
        mode="lines",
        line={"shape": "hv", "color": BLUE, "width": 2.5},
        hovertemplate="from %{x} tokens: %{y} nats<extra></extra>",
    )
    labels = {"x": "tokens the model has seen (log scale)", "y": "mean loss (nats per token)"}
    fig = figure(steps, title=title, caption=caption, **labels)
    ticks = [edge for edge in edges if edge] or [1]
    return fig.update_xaxes(type="log", tickvals=[1, *ticks], ticktext=[str(t) for t in [1, *ticks]])
