"""HQQ: the published iteration written out for one group, never worse than RTN, and what it refuses."""

import pytest
import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.fixtures import load_fixture
from qlab.methods import get_method, quantize
from qlab.qtensor import QTensor, by_group
from qlab.spec import QuantSpec
from qlab.step import Step, drain

NESTED = "int4-g32-offset-scale(int6-g8-offset)-offset(int6-g8-offset)"


def weights(rows: int = 16, n: int = 160, seed: int = 0) -> Tensor:
    """Heavy-tailed weights in the size of a language model's."""
    g = torch.Generator().manual_seed(seed)
    return 0.02 * torch.randn(rows, n, generator=g) * torch.randn(rows, n, generator=g).exp()


def lp(W: Tensor, Q: QTensor, p: float = 0.7) -> Tensor:
    """Σ|e|^p of each group of rows."""
    return by_group(lambda e: e.abs().pow(p).sum(-1), W - Q.dequantize(W.dtype), Q.spec)


def iterations(W: Tensor, spec: str, **options: object) -> list[Step]:
    steps = get_method("hqq", **options).steps(W, QuantSpec.parse(spec))
    return [s for s in steps if s.name == "iteration"]


def published(w: Tensor, scale: float, zero: float, top: int, p: float, beta: float) -> tuple[list[float], list[float]]:
    """The loop of HQQ for one group in its own terms, weight by weight: zeros as they are tried and their errors."""
    zeros, errors = [], []
    for _ in range(20):
        q = [min(max(round(x / scale + zero), 0), top) for x in w.tolist()]
        e = [x - scale * (k - zero) for x, k in zip(w.tolist(), q, strict=True)]
        zeros.append(zero)
        errors.append(sum(abs(x) ** p for x in e))
        if len(errors) > 1 and errors[-1] >= min(errors[:-1]):
            break
        outliers = [(1 if x > 0 else -1) * max(abs(x) - abs(x) ** (p - 1) / beta, 0) if x else 0.0 for x in e]
        terms = [k - (x - o) / scale for k, x, o in zip(q, w.tolist(), outliers, strict=True)]
        zero = sum(terms) / len(terms)
        beta *= 1.01
    return zeros, errors


@pytest.mark.parametrize("size", [0.02, 3.0])  # without outliers in the sense of beta = 10, and with many
@pytest.mark.parametrize(("p", "beta"), [(0.7, 10.0), (1.0, 10.0), (0.5, 30.0)])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_is_the_published_iteration(bits: int, p: float, beta: float, size: float) -> None:
    W = size * torch.randn(1, 64, generator=torch.Generator().manual_seed(bits), dtype=torch.float64)
    name = f"int{bits}-row-offset-fp32"
    start = quantize(W, name)
    scale = float(start.scale)
    zeros, errors = published(W[0], scale, -float(start.offset) / scale, 2**bits - 1, p, beta)
    steps = iterations(W, name, p=p, beta=beta)
    assert [float(s.data["error"]) for s in steps] == pytest.approx(errors, rel=1e-9)
    best = zeros[errors.index(min(errors))]
    assert float(steps[-1].data["offset"]) == pytest.approx(-scale * best, rel=1e-9)


def test_the_best_offset_is_stored_and_the_scale_is_rtns() -> None:
    Q, R = quantize(weights(), "int3-row-offset", "hqq"), quantize(weights(), "int3-row-offset")
    moved = iterations(weights(), "int3-row-offset")[-1].data["offset"]
    assert torch.equal(Q.offset, moved.half()) and torch.equal(Q.scale, R.scale)
    assert (Q.offset != R.offset).all()


@pytest.mark.parametrize("rule", ["offset", "asym", "awq"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_no_group_is_worse_than_with_rtn(bits: int, rule: str) -> None:
    for W in (weights(), weights() + 0.05, 40 * weights()):
        name = f"int{bits}-g64-{rule}"  # 64, 64 and 32 columns
        assert (lp(W, quantize(W, name, "hqq")) <= lp(W, quantize(W, name))).all()


@pytest.mark.parametrize("name", ["int4-g64-offset", "int2-row-offset", "int3-g48-flat-offset", "int4-tensor-offset"])
def test_a_real_zero_gains(name: str) -> None:
    W = weights()
    Q, R = quantize(W, name, "hqq"), quantize(W, name)
    assert (W - Q.dequantize()).abs().pow(0.7).sum() < (W - R.dequantize()).abs().pow(0.7).sum()


def test_minima_on_a_grid_of_their_own_are_taken_together() -> None:
    for seed in range(8):
        W = weights(seed=seed)
        Q, R = quantize(W, NESTED, "hqq"), quantize(W, NESTED)
        assert lp(W, Q).sum() <= lp(W, R).sum() and isinstance(Q.offset, QTensor)
        assert torch.equal(Q.scale.dequantize(), R.scale.dequantize())


@pytest.mark.parametrize("rule", ["asym", "awq"])
def test_surprise_an_integer_zero_gains_nothing(rule: str) -> None:
    """It picks a window of the multiples of scale, and min-max has picked that already."""
    W = load_fixture("k_proj.11").W
    for bits in (2, 3, 4):
        name = f"int{bits}-g64-{rule}"
        Q, R = quantize(W, name, "hqq"), quantize(W, name)
        assert torch.equal(Q.zero, R.zero) and torch.equal(Q.codes, R.codes)


@pytest.mark.parametrize("name", ["q_proj.0", "q_proj.11", "k_proj.11", "down_proj.11"])
def test_real_layers_gain_in_the_norm_and_in_the_square(name: str) -> None:
    W = load_fixture(name).W
    Q, R = quantize(W, "int4-g64-offset", "hqq"), quantize(W, "int4-g64-offset")
    assert lp(W, Q).sum() < lp(W, R).sum()
    assert Q.error(W).mse < R.error(W).mse


def test_groups_do_not_know_each_other() -> None:
    W = weights(4, 80)  # 32, 32 and 16 columns
    whole = quantize(W, "int3-g32-offset", "hqq")
    alone = [quantize(W[:, a:b], "int3-row-offset", "hqq") for a, b in ((0, 32), (32, 64), (64, 80))]
    assert torch.equal(whole.codes, torch.cat([Q.codes for Q in alone], dim=1))
    assert torch.equal(whole.offset, torch.cat([Q.offset for Q in alone], dim=1))


@pytest.mark.parametrize("rule", ["offset", "asym", "awq"])
@pytest.mark.parametrize("value", [0.0, 0.375, -2.0])
def test_a_constant_group_keeps_what_rtn_makes_of_it(rule: str, value: float) -> None:
    W = weights(2, 64)
    W[0, :32] = value
    Q, R = quantize(W, f"int4-g32-{rule}", "hqq"), quantize(W, f"int4-g32-{rule}")
    assert torch.equal(Q.dequantize()[0, :32], R.dequantize()[0, :32])
    if rule == "offset":  # a constant that float16 holds is its own minimum
        assert torch.equal(Q.dequantize()[0, :32], W[0, :32])


def test_all_zero_stays_zero() -> None:
    for name in ("int4-g32-offset", "int2-row-asym", NESTED):
        assert (quantize(torch.zeros(2, 64), name, "hqq").dequantize() == 0).all()


def test_steps_show_a_falling_error_and_end_early() -> None:
    steps = iterations(weights(), "int4-g32-offset", iters=500)
    errors = [s.error for s in steps]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    assert errors[-1] == errors[-2] and len(steps) < 500  # the last one found nothing better
    assert len(iterations(weights(), "int4-g32-offset", iters=3)) == 3
    assert steps[0].data["offset"].shape == (16, 5)


def test_one_iteration_is_rtn() -> None:
    Q, R = quantize(weights(), "int3-g32-offset", "hqq", iters=1), quantize(weights(), "int3-g32-offset")
    assert torch.equal(Q.dequantize(), R.dequantize())


def test_grain_shows_more_and_changes_nothing() -> None:
    method, spec = get_method("hqq"), QuantSpec.parse("int4-g32-offset")
    coarse = drain(method.steps(weights(), spec))
    fine = [s for s in method.steps(weights(), spec, grain="group") if s.name == "group"]
    assert torch.equal(torch.cat([s.data["W_hat"] for s in fine], dim=1), coarse.dequantize())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("int4-g64-sym", "int4-g64-offset"),
        ("int8-row-narrow", "int8-row-offset"),
        ("nf4", "int4-g64-flat-offset"),
        ("mxfp4", "int4-g32-offset"),
        ("e4m3-tensor-sym", "int8-tensor-offset"),
    ],
)
def test_a_rule_without_a_zero_is_refused_with_one_that_works(name: str, remedy: str) -> None:
    with pytest.raises(QlabError, match=f"moves the zero point, .* has none: use {remedy}, or -asym"):
        quantize(weights(), name, "hqq")
    assert quantize(weights(), remedy, "hqq").shape == (16, 160)


def test_senseless_input_is_refused() -> None:
    for options in ({"p": 0}, {"p": 2}, {"beta": -1.0}, {"kappa": 0.9}, {"iters": 0}, {"iters": 2.5}, {"p": "abc"}):
        with pytest.raises(QlabError, match="hqq needs 0 < p ≤ 1"):
            get_method("hqq", **options)
    with pytest.raises(QlabError, match="has no option 'grid'"):
        quantize(weights(), "int4-g32-offset", "hqq", grid=3)
    with pytest.raises(QlabError, match="q_proj holds nan"):
        quantize(torch.full((2, 64), torch.nan), "int4-g32-offset", "hqq", name="q_proj")
    with pytest.raises(QlabError, match="larger than the 160 in a row"):
        quantize(weights(), "int4-g256-offset", "hqq")
    with pytest.raises(QlabError, match="does not fit fp16"):
        quantize(1e9 * weights(), "int4-g32-offset", "hqq")
