"""Scale and minimum of one group, moved by hand against the candidates of llama.cpp's search."""

from __future__ import annotations

from typing import Any

import torch
import traitlets
from torch import Tensor

from qlab.errors import QlabError
from qlab.fixtures import Fixture
from qlab.methods.ggml_search import search_affine, total
from qlab.plots import rounded
from qlab.widgets.base import Widget, module

GROUP, TOP = 32, 15
SEARCH = (-1.0, 0.1, 20)
"""Q4_K's candidates: first, step and number of the offsets to the count of levels."""
REACH, POINTS = 0.1, 40
"""How far the sliders go to either side, and in how many steps of the map from end to end."""


class ScaleSearch(Widget):
    """Two sliders for the levels of one group, one for the candidates; the error of each weight, and a map of all."""

    _esm = module("scale_search.js")
    layer = traitlets.Unicode().tag(sync=True)
    weights: Any = traitlets.List().tag(sync=True)
    importance: Any = traitlets.List().tag(sync=True)  # what the search weighs each squared error by
    base: Any = traitlets.List().tag(sync=True)  # min-max's scale and minimum
    candidates: Any = traitlets.List().tag(sync=True)  # [error, best so far, its scale, its minimum], min-max first
    reach: Any = traitlets.Float().tag(sync=True)
    surface: Any = traitlets.List().tag(sync=True)  # error by minimum and scale, min-max: 1


def plain_importance(x: Tensor) -> Tensor:
    """Q4_K's weights of a group x [group, groups] without an importance matrix: its rms + |x|."""
    return (total(x * x) / len(x)).sqrt() + x.abs()


def error_of(x: Tensor, w: Tensor, scale: Tensor | float, minimum: Tensor | float) -> float:
    """Σ w·(x − x̂)² of a group [group] on the levels minimum + scale·(0 … 15)."""
    codes = torch.round((x - minimum) / scale).clamp(0, TOP)
    return float((w * (x - (scale * codes + minimum)).square()).sum())


def candidates(x: Tensor, w: Tensor) -> list[list[float]]:
    """[error, best error so far, scale and minimum of the best] of min-max, and after each candidate of the search."""
    lo = x.amin().clamp(max=0)
    scale = (x.amax() - lo) / TOP
    start = error_of(x, w, scale, lo)
    found = [[start, start, float(scale), float(lo)]]
    for step in search_affine(x[:, None], w[:, None], TOP, *SEARCH):
        data = {name: float(value[0]) for name, value in step.data.items()}
        found.append([data[name] for name in ("error", "best", "scale", "minimum")])
    return found


def surface(x: Tensor, w: Tensor, scale: float, minimum: float) -> list[list[float]]:
    """Errors over scale (columns) and minimum (rows), both from 1 − REACH to 1 + REACH times what is given."""
    factors = [1 - REACH + 2 * REACH * k / POINTS for k in range(POINTS + 1)]
    base = error_of(x, w, scale, minimum)
    return [[error_of(x, w, scale * a, minimum * b) / base for a in factors] for b in factors]


def scale_search(fixture: Fixture, group: int = 11) -> ScaleSearch:
    """The widget for a linear whose rows are whole groups of 32; it shows one group of row 0."""
    groups = fixture.shape[1] // GROUP
    if not 0 <= group < groups:
        raise QlabError(f"row 0 of {fixture.name} has {groups} whole groups of {GROUP}: choose one of 0 … {groups - 1}")
    shown = rounded(fixture.W[0, GROUP * group : GROUP * (group + 1)])
    x = torch.tensor(shown)
    importance = rounded(plain_importance(x[:, None])[:, 0])
    x, w = x.double(), torch.tensor(importance).double()
    if x.amax() <= x.amin().clamp(max=0) or x.amin() >= 0:
        raise QlabError(f"group {group} of {fixture.name} has no weight on either side of zero: choose another")
    found = candidates(x, w)
    return ScaleSearch(
        layer=f"{fixture.name}, row 0, weights {GROUP * group} to {GROUP * group + GROUP - 1}",
        weights=shown,
        importance=importance,
        base=rounded(found[0][2:], 6),
        candidates=rounded(found, 6),
        reach=REACH,
        surface=rounded(surface(x, w, *found[0][2:]), 3),
    )
