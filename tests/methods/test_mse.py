"""MSE clipping: never worse than RTN in the norm it searches, and its candidates are visible."""

import pytest
import torch

from qlab.errors import QlabError
from qlab.methods import get_method, quantize
from qlab.qtensor import by_group
from qlab.spec import QuantSpec


def heavy_tailed(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 160, generator=generator) * torch.randn(16, 160, generator=generator).exp()


@pytest.mark.parametrize("name", ["int4-g32-asym", "int3-g64-sym", "int2-row-asym", "nf4-g64-rows", "int4-g32-offset"])
@pytest.mark.parametrize("norm", [2.0, 2.4])
def test_every_group_is_at_most_rtns_error_in_the_searched_norm(name: str, norm: float) -> None:
    W, spec = heavy_tailed(0), QuantSpec.parse(name)

    def per_group(Q) -> torch.Tensor:
        return by_group(lambda e: e.abs().pow(norm).sum(-1), W - Q.dequantize(), spec)

    searched, plain = per_group(quantize(W, spec, "mse", norm=norm)), per_group(quantize(W, spec, "rtn"))
    assert (searched <= plain).all() and searched.sum() < plain.sum()


def test_candidates_are_yielded_with_a_falling_total() -> None:
    steps = [
        s for s in get_method("mse").steps(heavy_tailed(1), QuantSpec.parse("int3-g32-asym")) if s.name == "candidate"
    ]
    assert len(steps) == 80 and steps[0].data["shrink"].eq(1).all()
    errors = [s.error for s in steps]
    assert errors == sorted(errors, reverse=True)


def test_senseless_options_are_refused() -> None:
    for options in ({"maxshrink": 3}, {"grid": 0}, {"norm": "abc"}):
        with pytest.raises(QlabError, match="mse needs norm > 0"):
            get_method("mse", **options)
    with pytest.raises(QlabError, match="centered"):
        quantize(heavy_tailed(0), "int4-g32-centered", "mse")


def test_options_bound_the_search() -> None:
    method = get_method("mse", grid=20, maxshrink=0.5)
    steps = [s for s in method.steps(heavy_tailed(2), QuantSpec.parse("int3-g32-asym")) if s.name == "candidate"]
    assert len(steps) == 10 and steps[-1].data["shrink"].min() >= 0.5
