"""RTN: published constants, invariance of grain, and what its Steps say."""

import pytest
import torch

from qlab.errors import QlabError
from qlab.methods import Method, get_method, method_names, quantize
from qlab.plan import LinearPlan
from qlab.spec import QuantSpec
from qlab.step import drain

# Relative RMSE on i.i.d. Gaussian weights, computed with NumPy by the rules as published; 1 % covers the seed
GAUSSIAN = {
    "int4-g32-asym": 0.0808, "int4-g64-asym": 0.0911, "int4-g128-asym": 0.1005, "int4-g256-asym": 0.1094,
    "int4-g32-sym": 0.0948, "int4-g64-sym": 0.1027, "int4-g128-sym": 0.1106, "int4-g256-sym": 0.1184,
    "int3-g32-asym": 0.173, "int3-g64-asym": 0.195, "int3-g128-asym": 0.215, "int3-g256-asym": 0.234,
    "nf4-g64": 0.0920, "int8-g32-narrow": 0.00535,
}  # fmt: skip


@pytest.mark.parametrize(("name", "wanted"), GAUSSIAN.items())
def test_gaussian_constants(name: str, wanted: float) -> None:
    W = torch.randn(512, 2048, generator=torch.Generator().manual_seed(0))
    assert quantize(W, name).error(W).rel_mse ** 0.5 == pytest.approx(wanted, rel=0.01)


def test_surprise_nf4_beats_symmetric_but_not_asymmetric_int4() -> None:
    W = torch.randn(512, 2048, generator=torch.Generator().manual_seed(1))
    nf4, sym, asym = (quantize(W, f"{n}").error(W).mse for n in ("nf4-g64", "int4-g64-sym", "int4-g64-asym"))
    assert asym < nf4 < sym


@pytest.mark.parametrize("name", ["rtn", "mse"])
@pytest.mark.parametrize("spec", ["int4-g32-asym", "nf4-g64", "int3-row-sym"])
def test_grain_shows_more_and_changes_nothing(name: str, spec: str) -> None:
    W = torch.randn(8, 80, generator=torch.Generator().manual_seed(2))
    method, spec = get_method(name), QuantSpec.parse(spec)
    coarse = drain(method.steps(W, spec, grain="layer"))
    fine = drain(method.steps(W, spec, grain="group"))
    assert torch.equal(coarse.codes, fine.codes) and torch.equal(coarse.dequantize(), fine.dequantize())


def test_group_steps_walk_the_columns_and_end_at_the_total_error() -> None:
    W = torch.randn(8, 80, generator=torch.Generator().manual_seed(3))
    steps = list(get_method("rtn").steps(W, QuantSpec.parse("int4-g32-asym"), grain="group"))
    assert [(s.columns.start, s.columns.stop) for s in steps] == [(0, 32), (32, 64), (64, 80)]
    errors = [s.error for s in steps]
    assert errors == sorted(errors)
    total = (W - quantize(W, "int4-g32-asym").dequantize()).square().sum()
    assert errors[-1] == pytest.approx(float(total), rel=1e-5)
    assert torch.equal(torch.cat([s.data["W_hat"] for s in steps], 1), quantize(W, "int4-g32-asym").dequantize())


def test_a_plan_clips_and_shifts_rounding() -> None:
    W = torch.randn(4, 64, generator=torch.Generator().manual_seed(4))
    clip = (torch.tensor(-1.0), torch.tensor(1.0))
    assert torch.equal(
        quantize(W, "int4-g32-asym", plan=LinearPlan(clip)).codes, quantize(W.clamp(-1, 1), "int4-g32-asym").codes
    )
    up = quantize(W, "int4-g32-asym", plan=LinearPlan(rounding=torch.full_like(W, 0.5)))
    assert (up.dequantize() >= W - 1e-6).logical_or(up.codes == 15).all()


def test_methods_satisfy_the_protocol_and_name_themselves() -> None:
    assert {"rtn", "mse"} <= set(method_names())
    for name in ("rtn", "mse"):
        method = get_method(name)
        assert isinstance(method, Method) and method.name == name and not method.needs


def test_half_precision_weights_are_computed_in_single() -> None:
    W = torch.randn(8, 128, generator=torch.Generator().manual_seed(5)).bfloat16()
    for name in ("rtn", "mse"):
        assert torch.equal(quantize(W, "int8-row-sym", name).codes, quantize(W.float(), "int8-row-sym", name).codes)


def test_a_parameter_leaves_its_gradient_behind() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 128))
    assert not quantize(parameter, "int4").dequantize().requires_grad


def test_bad_input_is_named() -> None:
    with pytest.raises(QlabError, match="unknown method 'rnt': did you mean rtn"):
        quantize(torch.ones(2, 128), "int4", "rnt")
    with pytest.raises(QlabError, match="method 'rtn' has no option 'grid'"):
        quantize(torch.ones(2, 128), "int4", "rtn", grid=3)
    with pytest.raises(QlabError, match="q_proj holds nan"):
        quantize(torch.full((2, 128), torch.nan), "int4", name="q_proj")
    with pytest.raises(QlabError, match="non-empty matrix"):
        quantize(torch.ones(128), "int4")
    with pytest.raises(QlabError, match="non-empty matrix"):
        quantize(torch.ones(0, 128), "int4")
