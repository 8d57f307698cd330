"""Ranges: each named rule by hand, storage that keeps groups alive, and the error bound that rounding promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.methods import quantize
from qlab.qtensor import QTensor, dense
from qlab.ranges import extremes, fit, minmax, round_to_nearest
from qlab.spec import QuantSpec

LO, HI = torch.tensor([[-3.0, 1.0, 0.0]]), torch.tensor([[4.5, 1.1, 0.0]])


def rule(name: str):
    params = fit(LO, HI, QuantSpec.parse(name))
    return params.scale[0].tolist(), params.zero if params.zero is None else params.zero[0].tolist(), params.offset


def test_each_rule_by_hand() -> None:
    scale, zero, _ = rule("int4-asym")  # zero forced into the range; an empty group spans ±1
    # 1 / (2 / 15) is a hair under 7.5 in float32, so GPTQ's empty group gets zero 7, not 8
    assert scale == pytest.approx([0.5, 1.1 / 15, 2 / 15]) and zero == [6, 0, 7]
    scale, zero, _ = rule("int4-awq")  # not forced: [1, 1.1] gets a fine step and a zero point clamped at 0
    assert scale == pytest.approx([0.5, 0.1 / 15, 1e-5]) and zero == [6, 0, 0]
    scale, zero, _ = rule("int4-sym")
    assert scale == pytest.approx([4.5 / 7.5, 1.1 / 7.5, 1 / 7.5]) and zero is None
    assert rule("int4-narrow")[0] == pytest.approx([4.5 / 7, 1.1 / 7, 1 / 7])
    scale, zero, offset = rule("int4-offset")
    assert scale == pytest.approx([0.5, 0.1 / 15, 1.0]) and offset.tolist() == LO.tolist()
    assert rule("nf4-sym")[0] == pytest.approx([4.5, 1.1, 1.0])
    assert rule("e2m1-mx")[0] == [1.0, 0.25, 0.25]  # 2^(⌊log2 4.5⌋ − 2), 2^(0 − 2), and 1 for the empty group


def test_microscaling_takes_the_power_of_two_below() -> None:
    for absmax, name, scale in [(7.9999995, "mxfp4", 1.0), (8.0, "mxfp4", 2.0), (100.0, "int8-g32-mx", 1.0)]:
        Q = quantize(torch.full((1, 32), absmax), name)
        assert float(dense(Q.scale).flatten()[0]) == scale


def test_awqs_grid_collapses_a_group_far_from_zero() -> None:
    # methods reference: a group in [1.0, 1.1] becomes 0.1 throughout, because zero is neither inside nor reachable
    W = torch.linspace(1.0, 1.1, 32)[None]
    assert quantize(W, "int4-g32-awq-fp32").dequantize() == pytest.approx(torch.full((1, 32), 0.1), rel=1e-5)
    assert quantize(W, "int4-g32-asym-fp32").error(W).max_abs < 1.1 / 15


@pytest.mark.parametrize(
    "name", ["int4-g32-asym", "int3-g32-sym", "int4-g32-offset", "int8-row-narrow", "int2-g16-asym"]
)
@given(st.integers(0, 2**31))
def test_unclipped_error_is_at_most_half_a_step(name: str, seed: int) -> None:
    W = torch.randn(4, 96, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spec = QuantSpec.parse(name + "-fp32")
    Q = round_to_nearest(W, spec)
    inside = (Q.codes > 0) & (Q.codes < len(spec.grid.levels) - 1)
    step = Q.scale.double().repeat_interleave(spec.group_in(96), 1)
    E = (W - Q.dequantize(torch.float64)).abs()
    assert (E[inside] <= step[inside] / 2 * (1 + 1e-9)).all()
    # at the ends of the range a zero point rounded by up to half a step may push half a step more
    assert (step / 2 * (2 + 1e-6) >= E).all()


def test_halving_groups_never_widens_a_range() -> None:
    W = torch.randn(8, 256, generator=torch.Generator().manual_seed(7))
    lo, hi = extremes(W, QuantSpec.parse("int4-g64-asym"))
    lo2, hi2 = extremes(W, QuantSpec.parse("int4-g32-asym"))
    assert ((hi2 - lo2) <= (hi - lo).repeat_interleave(2, 1)).all()


def test_scales_never_vanish_in_storage() -> None:
    W = torch.full((1, 32), 1e-9)
    Q = quantize(W, "int4-g32-sym")  # 1e-9/7.5 is below float16's smallest subnormal
    assert Q.scale.item() > 0 and Q.dequantize().isfinite().all()


def test_scales_that_overflow_their_dtype_are_refused() -> None:
    with pytest.raises(QlabError, match="does not fit fp16: store it as fp32"):
        quantize(torch.full((1, 32), 1e7), "int4-g32-sym")
    assert quantize(torch.full((1, 32), 1e7), "int4-g32-sym-fp32").dequantize().isfinite().all()


def test_recursive_scales_are_quantized_and_codes_fit_them() -> None:
    W = torch.randn(4, 256, generator=torch.Generator().manual_seed(8))
    Q = quantize(W, "int4-g32-asym-scale(int6-g8-asym)")
    assert isinstance(Q.scale, QTensor) and Q.scale.shape == (4, 8)
    step = Q.scale.dequantize().repeat_interleave(32, 1)
    inside = (Q.codes > 0) & (Q.codes < 15)
    # codes were rounded with the scales as stored: half a step of those, not of the ones first fitted
    assert ((W - Q.dequantize()).abs()[inside] <= step[inside] * 0.5001).all()


def test_double_quantization_keeps_the_mean_apart() -> None:
    W = torch.randn(64, 64, generator=torch.Generator().manual_seed(9))
    Q = quantize(W, "nf4-g64-dq")
    absmax = extremes(W, Q.spec)
    plain = torch.maximum(absmax[0].abs(), absmax[1].abs())
    assert Q.scale.offset.item() == pytest.approx(plain.mean().item(), rel=1e-6)
    # the dynamic map's widest gap near ±1 is .0141 of the largest deviation: half of it bounds every scale
    deviation = (plain - plain.mean()).abs().max()
    assert (Q.scale.dequantize() - plain).abs().max() <= deviation * 0.0142 / 2


def test_minmax_of_a_zero_matrix_is_finite() -> None:
    for name in ("int4-asym", "int4-sym", "int4-offset", "int4-awq", "nf4", "mxfp4"):
        spec = QuantSpec.parse(name)
        assert minmax(torch.zeros(2, 128), spec).scale.isfinite().all()
        assert torch.equal(round_to_nearest(torch.zeros(2, 128), spec).dequantize(), torch.zeros(2, 128))
