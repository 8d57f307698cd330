"""The input channels of a real layer, and what its output loses when the largest are kept, clipped or zeroed."""

from __future__ import annotations

import torch
import traitlets
from torch import Tensor

from qlab.fixtures import Fixture
from qlab.methods import quantize
from qlab.nn import fake_quantize
from qlab.plots import rounded
from qlab.spec import QuantSpec
from qlab.widgets.base import Widget, module

WHATS = ("weights", "activations", "both")
HOWS = ("kept", "clipped", "zeroed")


def output_error(Y: Tensor, Y_hat: Tensor) -> float:
    """‖Y − Y_hat‖² / ‖Y‖²: the share of the output's energy that is lost."""
    return float((Y - Y_hat).square().sum() / Y.square().sum())


def largest(magnitudes: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest entries of [n], largest first."""
    return magnitudes.argsort(descending=True, stable=True)[:count]


def treated_output(X: Tensor, W: Tensor, chosen: Tensor, what: str, how: str, bits: int) -> Tensor:
    """Output [tokens, out] when the `chosen` input channels are treated and the rest is rounded to `bits`.

    how "kept": their product is exact, as in LLM.int8() (arXiv 2208.07339, eq. 8); "clipped": to the largest magnitude
    of the other channels, then rounded with them; "zeroed". what: which side is rounded, "weights" (one scale per
    output), "activations" (one scale per token) or "both".
    """
    rest = torch.ones(X.shape[1], dtype=torch.bool)
    rest[chosen] = False
    exact = X[:, chosen] @ W[:, chosen].T if how == "kept" else 0.0  # [tokens, out]
    if how == "clipped" and len(chosen):
        limit = X[:, rest].abs().amax()
        X, rest = torch.where(rest, X, X.clamp(-limit, limit)), torch.ones_like(rest)
    X, W = X[:, rest], W[:, rest]
    X_hat = X if what == "weights" else fake_quantize(X, QuantSpec.parse(f"int{bits}-token-sym-fp32"))
    W_hat = W if what == "activations" else quantize(W, f"int{bits}-row-sym-fp32").dequantize()
    return exact + X_hat @ W_hat.T


class OutlierMap(Widget):
    """Bars of all input channels above the output error against the number of channels treated."""

    _esm = module("outlier_map.js")
    layer = traitlets.Unicode().tag(sync=True)
    bits = traitlets.Int().tag(sync=True)
    magnitudes: traitlets.List = traitlets.List().tag(sync=True)  # max |x| of each channel
    losses = traitlets.Dict().tag(sync=True)  # what -> how -> output error with 0, 1, 2 … channels treated


def outlier_map(fixture: Fixture, bits: int = 4, most: int = 16) -> OutlierMap:
    """The widget for one layer on the fixture's own 64 tokens; 0 to `most` channels, the largest first."""
    X, W = fixture.X, fixture.W
    magnitudes = X.abs().amax(0)
    Y = X @ W.T

    def curve(what: str, how: str) -> list[float]:
        counts = range(most + 1)
        outputs = (treated_output(X, W, largest(magnitudes, k), what, how, bits) for k in counts)
        return rounded([output_error(Y, output) for output in outputs])

    losses = {what: {how: curve(what, how) for how in HOWS} for what in WHATS}
    return OutlierMap(layer=fixture.name, bits=bits, magnitudes=rounded(magnitudes), losses=losses)
