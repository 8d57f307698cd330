"""Figures of GGUF's blocks: what a weight really costs."""

from collections.abc import Mapping

import plotly.graph_objects as go

from qlab.plots.theme import AMBER, BLUE, ORANGE, finish, rounded

PARTS = {"codes": BLUE, "scales, minima": ORANGE, "what they are scaled by": AMBER}
PATTERNS = ("", "/", "x")


def bit_costs(
    costs: Mapping[str, tuple[float, float, float]], *, title: str = "What a weight costs", caption: str = ""
) -> go.Figure:
    """One bar for each type: bits per weight of its codes, its scales and minima, and the scales of those."""
    fig = go.Figure()
    for number, (part, colour) in enumerate(PARTS.items()):
        values = rounded([cost[number] for cost in costs.values()])
        fig.add_bar(
            name=part, y=list(costs), x=values, orientation="h",
            marker={"color": colour, "pattern": {"shape": PATTERNS[number], "solidity": 0.25}},
            hovertemplate=f"%{{y}}, {part}: %{{x}} bits<extra></extra>",
        )  # fmt: skip
    totals = rounded([sum(cost) for cost in costs.values()])
    fig.add_scatter(
        y=list(costs), x=totals, mode="text", text=[f" {total:g}" for total in totals], textposition="middle right",
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    finish(fig, title=title, x="bits per weight", caption=caption, height=120 + 30 * len(costs))
    fig.update_layout(barmode="stack")
    return fig.update_yaxes(autorange="reversed").update_xaxes(range=[0, max(totals) * 1.12])
