"""What calibration knows of one linear: streamed sums over its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from qlab.errors import QlabError

TILE = 192
"""Columns of one product in `self_products`: narrow enough to skip most of the mirror image, wide enough to be fast."""


def self_products(X: Tensor) -> Tensor:
    """XᵀX of X [tokens, in]: tiles on and above the diagonal are computed, the rest is their mirror image."""
    n = X.shape[1]
    G = X.new_empty(n, n)
    for i in range(0, n, TILE):
        G[i : i + TILE, i:] = X[:, i : i + TILE].T @ X[:, i:]
    return G.triu() + G.triu(1).T


class Stats:
    """Running sums over the inputs `X [tokens, in]` of one linear (or of several that share an input).

    One calibration pass feeds GPTQ (`gram` = XᵀX), AWQ (`mean_abs`) and the importance matrix (`mean_sq`). Sums are
    kept in float64, so their order does not show; memory is `in²` numbers with the Gram matrix and `2·in` without.
    `cross`, on request, is Σ (x_float − x)·xᵀ: what the float model would have sent beyond X (GPTAQ, arXiv 2504.02692).
    """

    def __init__(
        self, in_features: int, gram: bool = True, cross: bool = False, device: torch.device | str | None = None
    ):
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.tokens = 0
        self.abs_sum, self.sq_sum = zeros(in_features), zeros(in_features)
        self.gram = zeros(in_features, in_features) if gram else None
        self.cross = zeros(in_features, in_features) if cross else None

    def update(self, X: Tensor, name: str = "input", X_float: Tensor | None = None) -> None:
        """Add activations `X [..., in]`; NaN or infinity in them raises QlabError naming `name`.

        The products of one call are computed in float32 (float64 for float64 X) and summed in float64. X_float: the
        same tokens' inputs in the float model, for `cross`.
        """
        X = X.detach().reshape(-1, X.shape[-1])  # [tokens, in]
        X = X if X.dtype == torch.float64 else X.float()
        if X.shape[-1] != len(self.abs_sum):
            raise QlabError(f"{name} has {X.shape[-1]} channels: these statistics hold {len(self.abs_sum)}")
        total = X.abs().sum(0)
        if not total.isfinite().all():  # cheaper than to ask every activation
            raise QlabError(f"{name} holds NaN or infinite activations: look at the layer before it, or run in float32")
        self.tokens += len(X)
        self.abs_sum += total
        if self.gram is None:
            self.sq_sum += X.square().sum(0)
        else:
            products = self_products(X)
            self.gram += products
            self.sq_sum += products.diag()
        if self.cross is not None and X_float is not None:
            self.cross += (X_float.detach().reshape(X.shape).to(X.dtype) - X).T @ X

    @property
    def mean_abs(self) -> Tensor:
        """Mean |x| per input channel [in]: AWQ's saliency (arXiv 2306.00978, §3.2)."""
        return self.abs_sum / max(self.tokens, 1)

    @property
    def mean_sq(self) -> Tensor:
        """Mean x² per input channel [in]: llama.cpp's importance matrix, and diag(XᵀX)/tokens."""
        return self.sq_sum / max(self.tokens, 1)

    def rescaled(self, scale: Tensor) -> Stats:
        """The statistics of X / scale [in]: what the linears read once their scale is folded into the module before."""
        s = scale.double()
        twin = Stats(len(s), gram=False, device=s.device)
        twin.tokens, twin.abs_sum, twin.sq_sum = self.tokens, self.abs_sum / s, self.sq_sum / s.square()
        twin.gram, twin.cross = (None if M is None else M / torch.outer(s, s) for M in (self.gram, self.cross))
        return twin
