"""Grids: every level is its own code's value, encoding is nearest, rounding is what it is called."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.grid import NF4, ROUNDINGS, Grid, get_grid, grid_names, register_grid

FINITE = [n for n in grid_names() if n != "e8m0"]


@pytest.mark.parametrize("name", grid_names())
def test_every_level_survives_a_round_trip(name: str) -> None:
    grid = get_grid(name)
    levels = grid.table[grid.table.isfinite()].double()
    assert torch.equal(grid.decode(grid.encode(levels), torch.float64), levels)


@pytest.mark.parametrize("name", grid_names())
def test_encode_takes_the_nearest_level(name: str) -> None:
    grid = get_grid(name)
    finite = grid.table[grid.table.isfinite()].double()
    x = torch.empty(2000, dtype=torch.float64).uniform_(-1.2, 1.2, generator=torch.Generator().manual_seed(1)) * min(
        grid.absmax, 300
    )
    distance = (x - grid.decode(grid.encode(x), torch.float64)).abs()
    best = (x[:, None] - finite).abs().amin(1)
    assert torch.equal(distance, best)


@pytest.mark.parametrize("name", FINITE)
def test_codes_fit_their_bits_and_saturate(name: str) -> None:
    grid = get_grid(name)
    codes = grid.encode(torch.tensor([-3e38, 3e38]))
    assert codes.int().max() < 2**grid.bits
    values = grid.table[~grid.table.isnan()]
    assert grid.decode(codes).tolist() == [float(values.min()), float(values.max())]


@pytest.mark.parametrize(("dtype", "name"), [(torch.float8_e4m3fn, "e4m3"), (torch.float8_e5m2, "e5m2")])
def test_fp8_equals_torch_within_range(dtype: torch.dtype, name: str) -> None:
    grid = get_grid(name)
    x = torch.randn(20000, generator=torch.Generator().manual_seed(2)) * grid.absmax / 8
    x = torch.cat([x.clamp(-grid.absmax, grid.absmax), grid.table[grid.table.isfinite()] * 1.0625])
    x = x[x.abs() <= grid.absmax]
    assert torch.equal(grid.decode(grid.encode(x)), x.to(dtype).float())


def test_nf4_is_the_paper_construction() -> None:
    # QLoRA, appendix E: quantiles of N(0, 1) from .9677083 to 1/2, eight positive and seven negative, over their max
    offset = 0.9677083
    positive = torch.special.ndtri(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -torch.special.ndtri(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    levels = torch.cat([negative, torch.zeros(1), positive]).sort().values / positive.max()
    # bitsandbytes computed its table in float32: 16 levels agree to a few float32 steps of 1
    assert torch.allclose(
        levels, torch.tensor(NF4, dtype=torch.float64), atol=8 * torch.finfo(torch.float32).eps, rtol=0
    )


def test_dynamic_map_has_bitsandbytes_shape() -> None:
    levels = get_grid("dynamic8").levels
    assert len(set(levels)) == 256 and 0.0 in levels and max(levels) == 1.0
    assert min(levels) == pytest.approx(-0.99296875)  # midpoint of the last of 64 cells between .1 and 1


def test_roundings_differ_only_at_halves() -> None:
    halves = torch.tensor([0.5, 1.5, 2.5, 3.5])
    grid = get_grid("int4")
    assert grid.encode(halves).tolist() == [0, 2, 2, 4]
    assert grid.rounded("half-up").encode(halves).tolist() == [1, 2, 3, 4]
    signed = get_grid("sint4")
    assert signed.decode(signed.rounded("half-away").encode(-halves)).tolist() == [-1, -2, -3, -4]


def test_ties_of_a_codebook_take_the_even_code() -> None:
    grid = get_grid("e2m1")  # 2.5 lies between 2 (code 4) and 3 (code 5); 5 between 4 (code 6) and 6 (code 7)
    assert grid.encode(torch.tensor([2.5, 5.0, 0.25, -1.75])).tolist() == [4, 6, 0, 12]


def test_minus_zero_never_appears() -> None:
    for name in ("e2m1", "fp4", "e4m3"):
        assert get_grid(name).encode(torch.tensor([-1e-30, -0.0])).tolist() == [0, 0]


@given(st.floats(-20, 20), st.integers(0, 15))
def test_zero_point_shifts_after_rounding(x: float, zero: int) -> None:
    code = get_grid("int4").encode(torch.tensor([x], dtype=torch.float64), torch.tensor([zero]))
    assert code.item() == min(max(round(x) + zero, 0), 15)  # Python's round is half-even too


def test_one_bit_signed_levels_are_symmetric() -> None:
    assert get_grid("sint1").levels == (-0.5, 0.5)


def test_a_codebook_has_no_zero_point() -> None:
    with pytest.raises(QlabError, match="nf4 has no zero point"):
        get_grid("nf4").encode(torch.ones(2), torch.zeros(1))


def test_unknown_names_say_what_exists() -> None:
    with pytest.raises(QlabError, match="choose one of int1"):
        get_grid("int9")
    with pytest.raises(QlabError, match="half-even, half-up"):
        get_grid("int4").rounded("up")


def test_register_grid() -> None:
    grid = register_grid("ternary_test", (-1.0, 0.0, 1.0))
    assert grid == get_grid("ternary_test") and grid.bits == 2
    with pytest.raises(QlabError, match="other levels"):
        register_grid("ternary_test", (0.0, 1.0))
    with pytest.raises(QlabError, match="1 levels"):
        register_grid("one_test", (0.0,))


def test_levels_are_hidden_in_the_repr() -> None:
    assert repr(get_grid("e4m3")) == "Grid(name='e4m3', rounding='half-even')"
    assert math.isnan(get_grid("e8m0").levels[255])
    assert isinstance(get_grid("int4"), Grid)


@pytest.mark.parametrize("rounding", ["half-up", "half-away"])
def test_just_below_a_half_is_rounded_down(rounding: str) -> None:
    below = torch.nextafter(torch.tensor([0.5, 1.5, 2.5, 3.5]), torch.tensor(0.0))  # 1/2 more than the first is 1
    assert ROUNDINGS[rounding](below).tolist() == [0, 1, 2, 3]
    if rounding == "half-away":
        assert ROUNDINGS[rounding](-below).tolist() == [0, -1, -2, -3]
