"""GPTQ: the identities of the paper, a dense textbook version, and what may not change the codes."""

import pytest
import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.fixtures import load_fixture
from qlab.methods import get_method, quantize
from qlab.methods.gptq import hessian_factor
from qlab.plan import LinearPlan
from qlab.qtensor import QTensor
from qlab.ranges import minmax, stored
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Step, drain

ORDERS = ["static", "desc", "none"]


def problem(out: int = 24, n: int = 150, seed: int = 0) -> tuple[Tensor, Stats]:
    """A float64 layer with correlated inputs of very different channel scales, as real layers have them."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=g, dtype=torch.float64) / n**0.5 + torch.eye(n)
    X = torch.randn(3 * n, n, generator=g, dtype=torch.float64) @ mix
    stats = Stats(n)
    stats.update(X * torch.exp(torch.randn(n, generator=g, dtype=torch.float64)))
    return torch.randn(out, n, generator=g, dtype=torch.float64), stats


def damped(H: Tensor, damp: float = 0.01) -> Tensor:
    return H + damp * H.diag().mean() * torch.eye(len(H), dtype=H.dtype)


def output_error(W: Tensor, Q: QTensor, H: Tensor) -> float:
    E = W - Q.dequantize(W.dtype)
    return float(((E @ H) * E).sum())


def textbook(W: Tensor, H: Tensor, spec: QuantSpec, order: Tensor) -> Tensor:
    """OBQ with a common order, without blocks or factors: the inverse Hessian of what is left, one column at a time.

    Static groups; W_hat [out, in].
    """
    params = stored(minmax(W, spec), spec)
    index = torch.arange(W.shape[1]) // spec.group_in(W.shape[1])
    scale, zero = params.scale.double()[:, index], params.zero[:, index].double()
    W, W_hat = W.clone(), torch.zeros_like(W)
    left = order.tolist()
    while left:
        inverse = torch.linalg.inv(H[left][:, left])
        q = left[0]
        code = (torch.round(W[:, q] / scale[:, q]) + zero[:, q]).clamp(0, 2**spec.bits - 1)
        W_hat[:, q] = scale[:, q] * (code - zero[:, q])
        W[:, left] -= ((W[:, q] - W_hat[:, q]) / inverse[0, 0])[:, None] * inverse[0][None]
        left = left[1:]
    return W_hat


@pytest.mark.parametrize("act_order", ORDERS)
@pytest.mark.parametrize("spec", ["int4-g32-asym", "int3-row-sym", "int4-g64-sym", "int2-g40-awq", "int4-g64-offset"])
def test_without_correlation_it_is_rtn_to_the_bit(spec: str, act_order: str) -> None:
    W, stats = problem()
    stats.gram = 3.7 * torch.eye(150, dtype=torch.float64)
    Q, R = quantize(W, spec, "gptq", stats=stats, act_order=act_order), quantize(W, spec)
    assert torch.equal(Q.codes, R.codes) and torch.equal(Q.dequantize(), R.dequantize())


@pytest.mark.parametrize("spec", ["nf4-g64-rows", "mxfp4", "nvfp4", "e4m3-row-sym"])
def test_any_grid_along_rows_goes_the_same_road(spec: str) -> None:
    W, stats = problem(n=128)
    Q = quantize(W.float(), spec, "gptq", stats=stats)
    R = quantize(W.float(), spec)
    assert torch.equal(Q.dequantize(), Q.dequantize()) and str(Q.spec) == str(R.spec)
    assert output_error(W, Q, stats.gram) < output_error(W, R, stats.gram)
    stats.gram = torch.eye(128, dtype=torch.float64)
    assert torch.equal(quantize(W.float(), spec, "gptq", stats=stats).dequantize(), R.dequantize())


@pytest.mark.parametrize("act_order", ["static", "none"])
def test_agrees_with_the_textbook(act_order: str) -> None:
    W, stats = problem(8, 48)
    spec = QuantSpec.parse("int3-row-asym")  # one group: fitted before the first column in either order
    H = damped(stats.gram)
    order = H.diag().argsort(descending=True, stable=True) if act_order == "static" else torch.arange(48)
    Q = quantize(W, spec, "gptq", stats=stats, act_order=act_order)
    assert torch.allclose(Q.dequantize(torch.float64), textbook(W, H, spec, order), rtol=0, atol=1e-9)


def test_static_groups_agree_with_the_textbook() -> None:
    W, stats = problem(8, 50)
    spec, H = QuantSpec.parse("int4-g16-asym"), damped(stats.gram)
    wanted = textbook(W, H, spec, H.diag().argsort(descending=True, stable=True))
    Q = quantize(W, spec, "gptq", stats=stats)
    assert torch.allclose(Q.dequantize(torch.float64), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("act_order", ORDERS)
def test_the_identity_of_the_errors(act_order: str) -> None:
    W, stats = problem()
    *_, last = steps_of(W, stats, "int3-g32-asym", act_order=act_order)
    Q = quantize(W, "int3-g32-asym", "gptq", stats=stats, act_order=act_order)
    assert last.error == pytest.approx(output_error(W, Q, damped(stats.gram)), rel=1e-10)


@pytest.mark.parametrize("act_order", ORDERS)
@pytest.mark.parametrize("spec", ["int4-row-asym", "int3-g32-sym", "int3-g64-asym"])
def test_block_size_does_not_change_the_codes(spec: str, act_order: str) -> None:
    W, stats = problem()
    codes = [quantize(W, spec, "gptq", stats=stats, act_order=act_order, block=b).codes for b in (1, 37, 48, 128, 1000)]
    assert all(torch.equal(codes[0], other) for other in codes[1:])


def steps_of(W: Tensor, stats: Stats, spec: str, grain: str = "layer", **options: object) -> list[Step]:
    return list(get_method("gptq", **options).steps(W, QuantSpec.parse(spec), stats, grain=grain))


def test_grain_shows_more_and_changes_nothing() -> None:
    W, stats = problem(4, 40)
    method, spec = get_method("gptq"), QuantSpec.parse("int4-g16-asym")
    coarse, fine = drain(method.steps(W, spec, stats)), drain(method.steps(W, spec, stats, grain="column"))
    assert torch.equal(coarse.codes, fine.codes)
    steps = steps_of(W, stats, "int4-g16-asym", "column")
    assert sorted(s.columns.start for s in steps) == list(range(40))
    errors = [s.error for s in steps]
    assert errors == sorted(errors) and errors[-1] == pytest.approx(steps_of(W, stats, "int4-g16-asym")[-1].error)
    for step in steps:
        assert torch.equal(step.data["codes"], coarse.codes[:, step.columns.start])


@pytest.mark.parametrize("act_order", ORDERS)
@pytest.mark.parametrize("spec", ["int2-g64-asym", "int3-g64-asym", "int4-g64-sym"])
def test_real_layers_lose_less_than_with_rtn(spec: str, act_order: str) -> None:
    for name in ("q_proj.11", "k_proj.11"):
        f = load_fixture(name)
        Q, R = quantize(f.W, spec, "gptq", stats=f.stats, act_order=act_order), quantize(f.W, spec)
        assert Q.error(f.W, f.stats.gram).mse < R.error(f.W, f.stats.gram).mse


def test_mse_search_changes_the_ranges_only() -> None:
    f = load_fixture("k_proj.11")
    Q = quantize(f.W, "int3-g64-asym", "gptq", stats=f.stats, mse=True)
    searched = quantize(f.W, "int3-g64-asym", "mse")
    assert torch.equal(Q.scale, searched.scale) and torch.equal(Q.zero, searched.zero)


def test_ragged_groups_and_the_group_index() -> None:
    W, stats = problem(6, 70)
    Q = quantize(W, "int4-g32-asym", "gptq", stats=stats, act_order="desc")
    assert Q.scale.shape == (6, 3) and Q.group_index.bincount().tolist() == [32, 32, 6]
    order = stats.gram.diag().argsort(descending=True, stable=True)
    assert Q.group_index[order].tolist() == [i // 32 for i in range(70)]
    assert quantize(W, "int4-row-asym", "gptq", stats=stats, act_order="desc").group_index is None


def test_dead_channels_cost_nothing_and_become_zero() -> None:
    W, stats = problem(6, 40)
    stats.gram[5], stats.gram[:, 5] = 0, 0
    Q = quantize(W, "int4-g8-asym", "gptq", stats=stats)
    assert (Q.dequantize()[:, 5] == 0).all()
    assert output_error(W, Q, stats.gram) < output_error(W, quantize(W, "int4-g8-asym"), stats.gram)


def test_damping_rises_and_says_so() -> None:
    W, stats = problem(4, 40)
    X = torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stats.gram = X.T @ X  # rank 3: singular without damping
    steps = steps_of(W, stats, "int4-g8-asym", damp=0.0)
    raised = [s.error for s in steps if s.name == "damping"]
    assert raised and raised[0] == 1e-4
    with pytest.raises(QlabError, match="not positive definite with damping 0:"):
        hessian_factor(-stats.gram, 0.0)
    stats.gram = -stats.gram
    with pytest.raises(QlabError, match="stays indefinite with damping up to 1: .* tokens for 40 channels"):
        quantize(W, "int4-g8-asym", "gptq", stats=stats)


def test_the_factor_of_the_inverse() -> None:
    _, stats = problem()
    U = hessian_factor(stats.gram, 0.01)
    assert torch.equal(U, U.triu())
    eye = torch.eye(150, dtype=torch.float64)
    assert torch.allclose(U.T @ U @ damped(stats.gram), eye, rtol=0, atol=1e-9)


def test_gptaq_with_equal_inputs_is_gptq() -> None:
    W, stats = problem()
    stats.cross = torch.zeros_like(stats.gram)
    plain = quantize(W, "int3-g32-asym", "gptq", stats=stats)
    assert torch.equal(plain.codes, quantize(W, "int3-g32-asym", "gptq", stats=stats, alpha=0.25).codes)


@pytest.mark.parametrize("block", [1, 37, 128])
def test_gptaq_comes_nearer_to_the_float_models_output(block: int) -> None:
    W, _ = problem()
    g = torch.Generator().manual_seed(3)
    X_float = torch.randn(900, 150, generator=g, dtype=torch.float64) @ torch.randn(150, 150, generator=g).double()
    X = X_float * 0.95 + 0.2 * X_float.roll(1, 1)  # what quantized predecessors make of it
    stats = Stats(150, cross=True)
    stats.update(X, X_float=X_float)
    losses = {
        alpha: float(
            (X_float @ W.T - X @ quantize(W, "int4-row-asym", "gptq", stats=stats, alpha=alpha, block=block)
             .dequantize(torch.float64).T).square().sum()
        )
        for alpha in (0.0, 0.25)
    }  # fmt: skip
    assert losses[0.25] < losses[0.0]


def test_what_it_cannot_do_is_said() -> None:
    W, stats = problem(4, 64)
    for options, spec, plan, words in (
        ({}, "nf4-g64", None, "along rows"),
        ({"act_order": "desc"}, "nvfp4", None, "act_order=static"),
        ({"alpha": 0.25}, "int4-g32-asym", None, "needs the statistic `cross`"),
        ({}, "int4-g32-asym", LinearPlan(rounding=torch.zeros(4, 64)), "its own rounding"),
    ):
        with pytest.raises(QlabError, match=words):
            quantize(W, spec, "gptq", stats=stats, plan=plan, **options)
    with pytest.raises(QlabError, match="calibrate first"):
        quantize(W, "int4-g32-asym", "gptq")
    with pytest.raises(QlabError, match="unknown act_order"):
        get_method("gptq", act_order="asc")
    with pytest.raises(QlabError, match="damp"):
        get_method("gptq", damp=-1.0)
    stats.gram = torch.zeros_like(stats.gram)
    with pytest.raises(QlabError, match="every input of the layer was zero"):
        quantize(W, "int4-g32-asym", "gptq", stats=stats)
    stats.gram[0, 0] = torch.nan
    with pytest.raises(QlabError, match="NaN or infinity"):
        quantize(W, "int4-g32-asym", "gptq", stats=stats)
