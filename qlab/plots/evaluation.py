"""Figures of measured loss. Rows are dictionaries with the keys of `qlab compare --json`, and a `name`."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from qlab.errors import QlabError
from qlab.plots.theme import BLUE, DASHES, GREY, ORANGE, SERIES, SYMBOLS, cycle, faded, figure, rounded

Row = Mapping[str, Any]

DB_PER_BIT = 20 * np.log10(2)
"""Each bit halves the step, so the squared error falls by 6.02 dB."""

CONFIDENCE = 1.96
"""Standard errors on either side of a 95% interval."""

LABEL_WIDTH = 24  # characters in a line under the axis of a chart whose names take half of a narrow column
DIGIT_WIDTH = 8  # pixels, at most, of a character in a number of 13 px
MAX_LABELS = 8  # points with a written name; more would overlap, their names show on hover
ROW_HEIGHT = 34  # pixels per row of a bar or dot chart


@dataclass(frozen=True)
class Metric:
    """How a column of an evaluation is written on an axis."""

    label: str
    error: str | None = None


METRICS = {
    "perplexity": Metric("perplexity", "perplexity_se"),
    "ppl_ratio": Metric("perplexity / perplexity of the reference", "ppl_ratio_se"),
    "kl_mean": Metric("mean KL to the reference (nats per token)", "kl_se"),
    "kl_median": Metric("median KL to the reference (nats per token)"),
    "kl_p999": Metric("99.9% quantile of KL (nats)"),
    "top1_agreement": Metric("share of tokens with the same top choice"),
    "bits_per_weight": Metric("bits per weight, metadata included"),
    "size_bytes": Metric("size (bytes)"),
    "rel_mse": Metric("squared error / squared weight"),
    "snr_db": Metric("signal to quantization noise (dB)"),
}


def compare_bars(
    rows: Sequence[Row], value: str = "perplexity", *, log: bool = False, title: str = "", caption: str = ""
) -> go.Figure:
    """One horizontal bar per row, in the order given, with its value written and a 95% interval if known."""
    metric = METRICS.get(value, Metric(value))
    names, values, interval = _column(rows, "name"), _column(rows, value), _interval(rows, metric.error)
    bars = go.Bar(
        y=names,
        x=rounded(values),
        orientation="h",
        marker={"color": faded(BLUE, 0.75), "line": {"color": BLUE, "width": 1}},
        error_x=interval,
        text=[f" {v:.4g} " for v in values],
        textposition="inside" if interval["visible"] else "outside",
        insidetextanchor="start",
        insidetextfont={"color": "white"},
        cliponaxis=False,
        hovertemplate="%{y}: %{x}<extra></extra>",
    )
    fig = _listed(figure(bars, title=title or metric.label, x=metric.label, caption=caption, height=_height(rows)))
    if bars.textposition == "outside":  # the longest bar ends at the plot's edge: its number stands in the margin
        fig.update_layout(margin_r=DIGIT_WIDTH * max(map(len, bars.text), default=0))
    return fig.update_xaxes({"type": "log", "dtick": 1} if log else {})


def rate_distortion(
    rows: Sequence[Row],
    distortion: str = "rel_mse",
    *,
    title: str = "Rate and distortion",
    caption: str = "Down and left is better. The dotted line falls by 6.02 dB, a factor of 4, per bit.",
) -> go.Figure:
    """`distortion` (rel_mse, kl_mean; snr_db is turned over) against true bits per weight, one point per row.

    Rows of one `family` are joined. For rel_mse and snr_db the dotted line is the Gaussian bound 2^(−2R)
    (Cover and Thomas, 2nd edition, theorem 10.3.2), which no code beats on Gaussian weights; for other
    distortions it shows only the slope.
    """
    points = [_point(row, distortion) for row in rows]
    points.sort(key=lambda point: point["bits_per_weight"])
    families = list(dict.fromkeys(point["family"] for point in points))
    traces = [_family(points, name, i) for i, name in enumerate(families)]
    bound = _bound(points, absolute=distortion in ("rel_mse", "snr_db"))
    label = METRICS["rel_mse"].label if distortion == "snr_db" else METRICS.get(distortion, Metric(distortion)).label
    fig = figure(*traces, bound, title=title, x="bits per weight, metadata included", y=label, caption=caption)
    values = [point["distortion"] for point in points]
    room = np.log10([min(values) / 4, max(values) * 4])  # for the labels, and a bit of rate
    return fig.update_yaxes(type="log", exponentformat="power", dtick=1, range=rounded(room))


def _point(row: Row, distortion: str) -> dict[str, Any]:
    value = 10 ** (-row["snr_db"] / 10) if distortion == "snr_db" else row[distortion]
    return {"family": "measured", **row, "distortion": value}


def _family(points: Sequence[Row], family: str, index: int) -> go.Scatter:
    """The points of one family from low to high rate; each family has its own colour, symbol and dash."""
    own = [p for p in points if p["family"] == family]
    sides = {id(p): ("top right", "bottom left")[i % 2] for i, p in enumerate(points)}  # neighbours label apart
    return go.Scatter(
        name=family,
        x=rounded([p["bits_per_weight"] for p in own]),
        y=rounded([p["distortion"] for p in own]),
        text=[p["name"] for p in own],
        mode="lines+markers+text" if len(points) <= MAX_LABELS else "lines+markers",
        textposition=[sides[id(p)] for p in own],
        textfont={"size": 11},
        cliponaxis=False,
        marker={"size": 9, "symbol": cycle(SYMBOLS, index), "color": cycle(SERIES, index)},
        line={"width": 1.5, "dash": cycle(DASHES, index), "color": faded(cycle(SERIES, index), 0.6)},
        hovertemplate="%{text}<br>%{x} bits, %{y}<extra></extra>",
    )


def _bound(points: Sequence[Row], *, absolute: bool) -> go.Scatter:
    """2^(−2R) over the rates shown, through the lowest-rate point when only its slope has meaning."""
    rates = [p["bits_per_weight"] for p in points]
    ends = np.array([np.floor(min(rates)), np.ceil(max(rates))])
    first = points[0]
    factor = 1.0 if absolute else first["distortion"] * 4 ** first["bits_per_weight"]
    name = "Gaussian bound" if absolute else f"{DB_PER_BIT:.2f} dB per bit"
    line = {"color": GREY, "dash": "dot", "width": 1.5}
    return go.Scatter(name=name, x=rounded(ends), y=rounded(factor * 4.0**-ends), mode="lines", line=line)


def perplexity_protocols(
    rows: Sequence[Row],
    *,
    title: str = "One model, several perplexities",
    caption: str = "The weights are the same in every row, only measuring differs. Bars are 95% intervals.",
) -> go.Figure:
    """Perplexity with its interval for each protocol: rows have `name`, `perplexity` and `perplexity_se`."""
    dots = _dots(rows, "perplexity", "perplexity_se", BLUE, "perplexity", 2)
    return _listed(figure(dots, title=title, x="perplexity", caption=caption, height=_height(rows)))


def paired_errors(
    rows: Sequence[Row],
    *,
    title: str = "Is the difference real?",
    caption: str = "An interval that misses the line at 1 shows a real difference. Pairing on equal tokens "
    "removes what both models find hard, and most of the width.",
) -> go.Figure:
    """Perplexity ratio to the reference with its paired 95% interval, and the unpaired one if known.

    Rows have `name`, `ppl_ratio`, `ppl_ratio_se`, and may have `unpaired_se`, drawn wide and grey behind.
    """
    traces = [_dots(rows, "ppl_ratio", "ppl_ratio_se", BLUE, "paired", 3)]
    if all("unpaired_se" in row for row in rows):
        traces.insert(0, _dots(rows, "ppl_ratio", "unpaired_se", GREY, "unpaired", 9, alpha=0.35))
    x = METRICS["ppl_ratio"].label
    fig = _listed(figure(*traces, title=title, x=x, caption=caption, height=_height(rows)))
    return fig.add_vline(x=1, line={"color": ORANGE, "dash": "dash", "width": 1.5})


def _dots(
    rows: Sequence[Row], value: str, error: str, colour: str, name: str, thickness: int, alpha: float = 1.0
) -> go.Scatter:
    bars = {**_interval(rows, error), "color": faded(colour, alpha), "thickness": thickness, "width": 0}
    return go.Scatter(
        name=name,
        y=_column(rows, "name"),
        x=rounded(_column(rows, value)),
        error_x=bars,
        mode="markers",
        marker={"size": 10, "color": faded(colour, alpha)},
        hovertemplate="%{y}: %{x} ± %{error_x.array}<extra></extra>",
    )


def _interval(rows: Sequence[Row], error: str | None) -> dict[str, Any]:
    """Plotly's error bars for 95%, or none where no row has a standard error."""
    if error is None or not any(error in row for row in rows):
        return {"visible": False}
    half = [CONFIDENCE * (row.get(error) or 0.0) for row in rows]
    return {"visible": True, "type": "data", "array": rounded(half), "color": GREY, "thickness": 1.5}


def _column(rows: Sequence[Row], key: str) -> list[Any]:
    for row in rows:
        if key not in row:
            raise QlabError(f"row {row.get('name', rows.index(row))!r} has no {key!r}: it has {', '.join(row)}")
    return [row[key] for row in rows]


def _height(rows: Sequence[Row]) -> int:
    return 150 + ROW_HEIGHT * max(len(rows), 2)


def _listed(fig: go.Figure) -> go.Figure:
    """The first row on top, names without a grid between them, and an axis title as narrow as the room they leave."""
    fig.update_xaxes(title_text="<br>".join(textwrap.wrap(fig.layout.xaxis.title.text, LABEL_WIDTH)))
    return fig.update_yaxes(autorange="reversed", showgrid=False, type="category", ticks="", ticklabelstandoff=6)
