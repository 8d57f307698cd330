"""One row of weights, its outlier on a handle, and the levels and errors of all the others."""

from __future__ import annotations

import torch
import traitlets
from torch import Tensor

from qlab.errors import QlabError
from qlab.plots import rounded
from qlab.widgets.base import Widget, module

MAX_WEIGHTS = 8192
"""Most weights of a row: their text, about 8 characters each, is kept in the notebook."""


class GridExplorer(Widget):
    """The view that `grid_explorer` fills: a row of weights, where its outlier is, and the rule of its grid."""

    _esm = module("grid_explorer.js")
    weights = traitlets.List(traitlets.Float()).tag(sync=True)
    at = traitlets.Int().tag(sync=True)
    sigma = traitlets.Float().tag(sync=True)
    rule = traitlets.Unicode("asym").tag(sync=True)
    name = traitlets.Unicode().tag(sync=True)


def grid_explorer(weights: Tensor, name: str = "a row", rule: str = "asym") -> GridExplorer:
    """The widget over one row of `weights` [in]; its largest magnitude is the outlier that can be dragged.

    `rule` is asym or sym. The standard deviation that the handle counts in is that of the other weights.
    """
    row = weights.detach().double()
    if row.ndim != 1 or not 2 <= len(row) <= MAX_WEIGHTS or not row.isfinite().all() or not row.any():
        raise QlabError(f"{name} has shape {list(row.shape)}: one row of 2 to {MAX_WEIGHTS} finite weights is needed")
    if rule not in ("asym", "sym"):
        raise QlabError(f"the widget draws the rules asym and sym, not {rule!r}")
    at = int(row.abs().argmax())
    others = torch.cat([row[:at], row[at + 1 :]])
    return GridExplorer(weights=rounded(row), at=at, sigma=rounded(float(others.std())), rule=rule, name=name)
