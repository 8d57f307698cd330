"""Lesson 01's exercise: the oracle is qlab's rule, the stub fails, the solution passes, near misses fail."""

import pytest
import torch

from qlab import QTensor, QuantSpec
from qlab.exercises.core import get_exercise
from qlab.exercises.grids import round_trip
from qlab.qtensor import encode
from qlab.ranges import minmax
from tests.exercises.notebook_cells import function, tagged

EXERCISE = get_exercise("grids.round_trip")


def attempt(tag):
    return function(tagged("01", tag), "round_trip")


def test_the_stub_fails():
    verdict = EXERCISE.check(attempt("exercise-stub"))
    assert not verdict
    assert "the stub is still there" in repr(verdict)


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_passes(seed):
    assert EXERCISE.check(attempt("exercise-solution"), seed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_the_oracle_is_the_rule_of_the_library(seed, bits):
    W = torch.randn(5, 40, generator=torch.Generator().manual_seed(seed))
    W[1] = 0
    spec = QuantSpec.parse(f"int{bits}-row-asym")
    params = minmax(W, spec)  # scales that nothing rounded: the exercise stores none
    codes = encode(W, spec, params.scale, params.zero)
    W_hat = QTensor(codes, params.scale, spec, params.zero).dequantize()
    torch.testing.assert_close(round_trip(W, bits), W_hat, rtol=0, atol=EXERCISE.tolerance * W.abs().max())


def parts(W, bits, *, forced=True, levels=None, guard=True, dim=-1):
    """Scale and real zero of each row, with the mistakes one can make on the way."""
    lo, hi = W.amin(dim, keepdim=True), W.amax(dim, keepdim=True)
    if forced:
        lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    scale = (hi - lo) / (levels or 2**bits - 1)
    scale = torch.where(scale == 0, 1.0, scale) if guard else scale
    return scale, -lo / scale


def back(W, bits, scale, zero, *, rounding=torch.round, clamp=True):
    codes = rounding(W / scale) + zero
    return scale * ((codes.clamp(0, 2**bits - 1) if clamp else codes) - zero)


def zero_not_forced(W, bits):
    scale, zero = parts(W, bits, forced=False)
    return back(W, bits, scale, zero.round().clamp(0, 2**bits - 1))


def divides_by_zero(W, bits):
    scale, zero = parts(W, bits, guard=False)
    return back(W, bits, scale, zero.round())


def one_step_too_many(W, bits):
    scale, zero = parts(W, bits, levels=2**bits)
    return back(W, bits, scale, zero.round())


def not_clamped(W, bits):
    scale, zero = parts(W, bits)
    return back(W, bits, scale, zero.round(), clamp=False)


def rounds_half_up(W, bits):
    scale, zero = parts(W, bits)
    return back(W, bits, scale, zero.round(), rounding=lambda x: torch.floor(x + 0.5))


def truncates(W, bits):
    scale, zero = parts(W, bits)
    return back(W, bits, scale, zero.round(), rounding=torch.trunc)


def zero_is_not_an_integer(W, bits):
    return back(W, bits, *parts(W, bits))


def adds_zero_before_rounding(W, bits):
    scale, zero = parts(W, bits)
    codes = torch.round(W / scale + zero.round()).clamp(0, 2**bits - 1)
    return scale * (codes - zero.round())


def one_scale_for_all(W, bits):
    scale, zero = parts(W, bits, dim=(0, 1))
    return back(W, bits, scale, zero.round())


def epsilon_instead_of_a_guard(W, bits):
    scale, _ = parts(W, bits)
    scale = scale.clamp(min=1e-5)
    return back(W, bits, scale, torch.round(-W.amin(-1, keepdim=True).clamp(max=0) / scale))


def symmetric(W, bits):
    scale = 2 * W.abs().amax(-1, keepdim=True).clamp(min=1e-20) / (2**bits - 1)
    return back(W, bits, scale, torch.tensor(float(2 ** (bits - 1))))


def minimum_as_a_float(W, bits):
    lo, hi = W.amin(-1, keepdim=True), W.amax(-1, keepdim=True)
    scale = (hi - lo).clamp(min=1e-20) / (2**bits - 1)
    return torch.round((W - lo) / scale) * scale + lo


WRONG = [
    zero_not_forced,
    divides_by_zero,
    one_step_too_many,
    not_clamped,
    rounds_half_up,
    truncates,
    zero_is_not_an_integer,
    adds_zero_before_rounding,
    one_scale_for_all,
    epsilon_instead_of_a_guard,
    symmetric,
    minimum_as_a_float,
]


@pytest.mark.parametrize("wrong", WRONG)
def test_near_misses_fail(wrong):
    verdict = EXERCISE.check(wrong)
    assert not verdict
    assert "raised" not in verdict.complaint
