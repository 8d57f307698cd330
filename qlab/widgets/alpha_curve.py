"""AWQ's search on a real linear: how far to scale, what it does to one group, and who gains and who pays."""

from __future__ import annotations

from typing import Any, cast

import torch
import traitlets
from torch import Tensor

from qlab.errors import QlabError
from qlab.fixtures import Fixture
from qlab.methods import quantize
from qlab.passes.awq import relative_weight, scale_of
from qlab.plots import rounded
from qlab.spec import QuantSpec
from qlab.widgets.base import Widget, module

POINTS = 20
RULES = ("paper", "autoawq")
LOUD = 0.01
"""The share of channels that count as loud."""


class AlphaCurve(Widget):
    """A slider for α, the weights of one group in steps of their grid, and the error of loud and quiet channels."""

    _esm = module("alpha_curve.js")
    layer = traitlets.Unicode().tag(sync=True)
    spec = traitlets.Unicode().tag(sync=True)
    channels: Any = traitlets.List().tag(sync=True)  # of the group shown
    loud: Any = traitlets.List().tag(sync=True)  # those among them that are loud
    levels: Any = traitlets.List().tag(sync=True)  # lowest and highest level, in steps
    runs = traitlets.Dict().tag(sync=True)  # rule -> frames, see `run`


def split_error(W: Tensor, H: Tensor, spec: QuantSpec, scale: Tensor, loud: Tensor) -> tuple[float, float, float]:
    """Output error of rounding W [out, in] after scaling; and Σ H_jj·e_j² of the `loud` [in] channels, and of the rest.

    The last two leave out how channels go together, and so do not sum to the first.
    """
    E = W - quantize(W * scale, spec).dequantize(W.dtype) / scale
    each = E.square().sum(0) * H.diag()
    return float(((E @ H) * E).sum()), float(each[loud].sum()), float(each[~loud].sum())


def run(W: Tensor, H: Tensor, x: Tensor, spec: QuantSpec, rule: str, shown: slice) -> dict[str, Any]:
    """The frames of one rule, a list entry for each α: loss, loud, rest (shares of plain rounding's whole error, and of
    its own loud and quiet parts), stretch (mean Δ'/Δ where the median channel has scale 1), and the
    weights of row 0, columns `shown`, in steps of their group."""
    loud = torch.zeros(len(x), dtype=torch.bool)
    loud[x.argsort(descending=True, stable=True)[: max(1, round(LOUD * len(x)))]] = True
    plain = cast(Tensor, quantize(W, spec).scale).double()
    base = split_error(W, H, spec, torch.ones_like(x), loud)
    weights = None if rule == "paper" else relative_weight([(W, spec)])
    frames: dict[str, Any] = {key: [] for key in ("loss", "loud", "rest", "stretch", "steps")}
    for k in range(POINTS + 1):
        scale = scale_of(x, k / POINTS, weights)
        steps = cast(Tensor, quantize(W * scale, spec).scale).double()
        for key, now, before in zip(("loss", "loud", "rest"), split_error(W, H, spec, scale, loud), base, strict=True):
            frames[key].append(now / before)
        frames["stretch"].append(float((steps / plain).mean() / scale.median()))
        step = steps[0, shown.start // spec.group_in(len(x))]
        frames["steps"].append(((W * scale)[0, shown] / step).round(decimals=2).tolist())
    return {key: rounded(values, 3) for key, values in frames.items()}


def alpha_curve(fixture: Fixture, spec: str = "int3-g64-sym") -> AlphaCurve:
    """The widget for a fixture with a Gram matrix, and a symmetric spec; it shows the loudest input's group, row 0."""
    if fixture.gram is None:
        raise QlabError(f"fixture {fixture.name} has no Gram matrix: use one that has, such as q_proj.11")
    W, H, x, parsed = fixture.W.double(), fixture.gram.double(), fixture.mean_abs.double(), QuantSpec.parse(spec)
    size = parsed.group_in(len(x))
    first = int(x.argmax()) // size * size
    shown = slice(first, first + size)
    loudest = set(x.argsort(descending=True, stable=True)[: max(1, round(LOUD * len(x)))].tolist())
    return AlphaCurve(
        layer=fixture.name,
        spec=spec,
        channels=list(range(shown.start, shown.stop)),
        loud=[c for c in range(shown.start, shown.stop) if c in loudest],
        levels=[-(2 ** (parsed.bits - 1)), 2 ** (parsed.bits - 1) - 1],
        runs={rule: run(W, H, x, parsed, rule, shown) for rule in RULES},
    )
