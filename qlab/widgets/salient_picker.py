"""Which input channels deserve better than the rest: chosen by activation, by weight or by lot, and what it saves."""

from __future__ import annotations

from typing import Any

import torch
import traitlets
from torch import Tensor

from qlab.errors import QlabError
from qlab.fixtures import Fixture
from qlab.methods import quantize
from qlab.plots import rounded
from qlab.qtensor import QuantError
from qlab.spec import QuantSpec
from qlab.widgets.base import Widget, module

RULES = ("activation", "weight", "random")
HOWS = {"kept": None, "x2": 2.0, "x4": 4.0}
"""What is done for the chosen channels: they keep their 16 bits, or are scaled before rounding and back after it."""


class SalientPicker(Widget):
    """Bars of the inputs' and the weights' magnitudes, and the output error against the number of channels chosen."""

    _esm = module("salient_picker.js")
    layer = traitlets.Unicode().tag(sync=True)
    spec = traitlets.Unicode().tag(sync=True)
    activation: Any = traitlets.List().tag(sync=True)  # mean |x| of each channel
    weight: Any = traitlets.List().tag(sync=True)  # norm of each column
    orders = traitlets.Dict().tag(sync=True)  # rule -> the channels it chooses, first one first
    errors = traitlets.Dict().tag(sync=True)  # how -> rule -> output error with 0, 1, 2 … chosen; 1: all rounded


def ranked(W: Tensor, mean_abs: Tensor, rule: str) -> Tensor:
    """Input channels of W [out, in], the ones that `rule` protects first coming first."""
    lot = torch.rand(W.shape[1], generator=torch.Generator().manual_seed(0), dtype=W.dtype)
    by = {"activation": mean_abs, "weight": W.norm(dim=0), "random": lot}[rule]
    return by.argsort(descending=True, stable=True)


def protected(W: Tensor, spec: QuantSpec, chosen: Tensor, s: float | None) -> Tensor:
    """W_hat [out, in]: the `chosen` columns kept as they are, or scaled by s, rounded with the rest and scaled back."""
    scale = torch.ones(W.shape[1], dtype=W.dtype)
    scale[chosen] = s or 1.0
    W_hat = quantize(W * scale, spec).dequantize(W.dtype) / scale
    if s is None:
        W_hat[:, chosen] = W[:, chosen]
    return W_hat


def salient_picker(fixture: Fixture, spec: str = "int3-g128-asym", most: int = 16) -> SalientPicker:
    """The widget for one linear with a Gram matrix; 0 to `most` channels chosen."""
    if fixture.gram is None:
        raise QlabError(f"fixture {fixture.name} has no Gram matrix: use one that has, such as q_proj.11")
    W, H, parsed = fixture.W.double(), fixture.gram.double(), QuantSpec.parse(spec)
    orders = {rule: ranked(W, fixture.mean_abs.double(), rule)[:most] for rule in RULES}

    def error(chosen: Tensor, s: float | None) -> float:
        return QuantError.of(W - protected(W, parsed, chosen, s), W, H).mse

    plain = error(torch.tensor([], dtype=torch.int64), None)
    return SalientPicker(
        layer=fixture.name,
        spec=spec,
        activation=rounded(fixture.mean_abs, 3),
        weight=rounded(W.norm(dim=0), 3),
        orders={rule: order.tolist() for rule, order in orders.items()},
        errors={
            how: {
                rule: rounded([error(order[:k], s) / plain for k in range(most + 1)]) for rule, order in orders.items()
            }
            for how, s in HOWS.items()
        },
    )
