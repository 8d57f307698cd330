"""Perplexities of several models under four protocols, with unpaired or paired error bars: what separates whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import traitlets

from qlab.errors import QlabError
from qlab.widgets.base import Widget, module

LABELS = {"2048": "2048", "512": "512", "llama.cpp": "llama.cpp", "sliding": "sliding"}
SEPARATED = 2.0
"""Standard errors between two models from which the widget calls them separated: 95% of a normal distribution."""


def cluster_mean(sums: Sequence[float], sizes: Sequence[int]) -> tuple[float, float]:
    """Mean per token and its standard error from sums over clusters of tokens, `sizes` tokens in each.

    SE² = C/(C−1) · Σ_c (Y_c − ȳ·m_c)² / (Σm)², the variance of a ratio of sums over C clusters (Cochran, Sampling
    Techniques, ch. 6). Nan with one cluster.
    """
    C, total = len(sums), sum(sizes)
    mean = sum(sums) / total
    squares = sum((y - mean * m) ** 2 for y, m in zip(sums, sizes, strict=True))
    return mean, math.sqrt(C / (C - 1) * squares) / total if C > 1 else math.nan


def gap(a: Sequence[float], b: Sequence[float], sizes: Sequence[int], paired: bool) -> float:
    """|mean loss of a − mean loss of b| in standard errors of that difference; `a`, `b` are sums per cluster.

    Paired: the error of the per-cluster differences. Unpaired: as if the two had been measured on different texts.
    """
    if paired:
        mean, se = cluster_mean([x - y for x, y in zip(a, b, strict=True)], sizes)
        return _in_errors(mean, se)
    (mean_a, se_a), (mean_b, se_b) = cluster_mean(a, sizes), cluster_mean(b, sizes)
    return _in_errors(mean_a - mean_b, math.hypot(se_a, se_b))


def _in_errors(difference: float, se: float) -> float:
    """0 for two equal models, though their error is 0 too."""
    return abs(difference) / se if difference else 0.0


class Protocols(Widget):
    """Dots with error bars, one row per model; protocol, amount of text and pairing are the reader's."""

    _esm = module("protocols.js")
    names: Any = traitlets.List().tag(sync=True)  # models from best to worst; the first is the reference
    bits: Any = traitlets.List().tag(sync=True)  # bits per weight of each, metadata included
    protocols: Any = traitlets.List().tag(sync=True)  # [key, what the button says, what the readout says]
    sizes: Any = traitlets.Dict().tag(sync=True)  # protocol -> tokens in each cluster
    sums: Any = traitlets.Dict().tag(sync=True)  # protocol -> one list per model: loss of each cluster, nats
    chunks: Any = traitlets.Int().tag(sync=True)  # steps of the text slider
    chunk_tokens: Any = traitlets.Int().tag(sync=True)


def compare_protocols(record: dict[str, Any], models: Sequence[str] | None = None) -> Protocols:
    """The widget over the record "protocols" (qlab.records), for the models named or all, best first."""
    rows = {row["name"]: row for row in record["models"]}
    unknown = [name for name in models or () if name not in rows]
    if unknown:
        raise QlabError(f"no model {unknown[0]!r} in the record: it has {', '.join(rows)}")
    rows = {name: rows[name] for name in models or rows}
    names = sorted(rows, key=lambda name: sum(rows[name]["nll"]["512"]))
    chunks = len(record["tokens"]["2048"])
    return Protocols(
        names=names,
        bits=[round(rows[name]["bits_per_weight"], 2) for name in names],
        protocols=[[key, LABELS[key], text] for key, text in record["protocols"].items()],
        sizes=record["tokens"],
        sums={key: [rows[name]["nll"][key] for name in names] for key in record["protocols"]},
        chunks=chunks,
        chunk_tokens=record["text"]["tokens"] // chunks,
    )
