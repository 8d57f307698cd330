"""Who can make up for a rounding error: the correlations of real inputs, and the best answer of the other weights."""

from __future__ import annotations

from typing import Any

import torch
import traitlets
from torch import Tensor

from qlab.errors import QlabError
from qlab.fixtures import Fixture
from qlab.methods.gptq import hessian_factor
from qlab.plots import rounded
from qlab.widgets.base import Widget, module

MIXES = (0.0, 0.02, 0.1, 0.3, 1.0)
"""How far H has gone towards a multiple of the identity: dense where little changes much."""


class Compensation(Widget):
    """A correlation matrix to click, the answer of the other weights to one error, and what is left of it."""

    _esm = module("compensation.js")
    layer = traitlets.Unicode().tag(sync=True)
    channels: Any = traitlets.List().tag(sync=True)  # the layer's own numbers of the channels shown
    inputs: Any = traitlets.List().tag(sync=True)  # root mean square of each channel's input
    mixes: Any = traitlets.List().tag(sync=True)
    frames: Any = traitlets.List().tag(sync=True)  # one for each mix, see `frame`


def mixed(H: Tensor, t: float) -> Tensor:
    """H on its way to cI, which has the same trace: (1 − t)·H + t·mean(diag H)·I."""
    return (1 - t) * H + t * H.diag().mean() * torch.eye(len(H), dtype=H.dtype)


def answers(H: Tensor, later: bool) -> tuple[Tensor, Tensor]:
    """Row j: the change of the others when weight j is raised by 1; and the share of its cost H_jj that remains.

    Everyone may help: (H⁻¹)_jk / (H⁻¹)_jj, leaving 1/(H⁻¹)_jj (Hassibi & Stork 1992, eq. 5). Only `later` ones, as in
    GPTQ: U_jk / U_jj, leaving 1/U_jj², with H⁻¹ = UᵀU.
    """
    U = hessian_factor(H, damp=0.0)
    M = U if later else U.T @ U
    own = M.diag()
    left = 1 / (own.square() if later else own)
    return M / own[:, None] - torch.eye(len(H), dtype=H.dtype), left / H.diag()


def frame(H: Tensor) -> dict[str, Any]:
    """What the widget shows of one H: correlation [n][n], and for "all" and "later" the answers and what remains."""
    loud = H.diag().sqrt()
    shown: dict[str, Any] = {"correlation": rounded((H / torch.outer(loud, loud)).round(decimals=2))}
    for who in ("all", "later"):
        moves, left = answers(H, who == "later")
        # in output, not in weight: a loud channel needs a small change
        shown[who] = {"moves": rounded((moves * loud / loud[:, None]).round(decimals=2)), "left": rounded(left, 3)}
    return shown


def compensation(fixture: Fixture, columns: int = 18) -> Compensation:
    """The widget for the `columns` inputs of a fixture with a Gram matrix that share the most with one another.

    The slice is a small layer of its own: its Gram matrix is the real one's sub-matrix, as if nothing else came in.
    """
    if fixture.gram is None:
        raise QlabError(f"fixture {fixture.name} has no Gram matrix: use one that has, such as q_proj.11")
    H = fixture.gram.double()
    loud = H.diag().sqrt()
    strength = (H / torch.outer(loud, loud)).abs().sum(0)
    chosen = strength.argsort(descending=True, stable=True)[:columns]
    chosen = chosen[H.diag()[chosen].argsort(descending=True, stable=True)]
    slice_ = H[chosen][:, chosen]
    return Compensation(
        layer=fixture.name,
        channels=chosen.tolist(),
        inputs=rounded(slice_.diag().sqrt(), 3),
        mixes=list(MIXES),
        frames=[frame(mixed(slice_, t)) for t in MIXES],
    )
