"""A researcher's own method in one file: stochastic rounding. Use it with `qlab compare … --plugin this.py`."""

from dataclasses import dataclass

import torch

from qlab import register_method
from qlab.ranges import round_to_nearest
from qlab.step import Step


@register_method("stochastic")
@dataclass(frozen=True)
class Stochastic:
    """Round up with probability equal to the fraction: unbiased, and noisier than nearest."""

    seed: int = 0
    needs = frozenset()

    def steps(self, W, spec, stats=None, plan=None, grain="layer"):
        noise = torch.rand(W.shape, generator=torch.Generator().manual_seed(self.seed)) - 0.5
        Q = round_to_nearest(W, spec, rounding=noise)
        yield Step("round", 0, 1, Q.error(W).mse)
        return Q


@register_method("needy")
@dataclass(frozen=True)
class Needy(Stochastic):
    """A method that cannot work without calibration statistics."""

    needs = frozenset({"gram"})
