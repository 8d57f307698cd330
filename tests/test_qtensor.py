"""QTensor: one affine rule, every stored bit counted, errors in the norms that are named."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.errors import QlabError
from qlab.methods import quantize
from qlab.qtensor import QTensor, QuantError, by_group, check_finite, encode
from qlab.spec import QuantSpec

SPECS = [
    "int4-g128-asym", "int4-g128-sym", "int3-g32-awq", "int4-g32-offset", "int8-row-narrow", "int1-g32-sym", "nf4-g64",
    "nf4-g64-dq", "fp4-g64", "iq4_nl-g32", "e4m3-row", "mxfp4", "mxfp8", "nvfp4", "int4-tensor-asym",
    "int4-g32-asym-scale(int6-g8-asym)", "int4-g32-offset-scale(int6-g8-sym)-offset(int6-g8-asym)",
]  # fmt: skip
W = torch.randn(24, 160, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", SPECS)
def test_stored_bits_equal_the_specs_count(name: str) -> None:
    Q = quantize(W, name)
    assert Q.bits_per_weight == Q.spec.bits_per_weight(W.shape)
    assert Q.nbytes == math.ceil(Q.bits_stored / 8)


@pytest.mark.parametrize("name", SPECS)
def test_dequantize_is_the_affine_rule_weight_by_weight(name: str) -> None:
    Q = quantize(W, name)
    spec, W_hat = Q.spec, Q.dequantize(torch.float64)
    scale = Q.scale.dequantize(torch.float64) if isinstance(Q.scale, QTensor) else Q.scale.double()
    offset = Q.offset.dequantize(torch.float64) if isinstance(Q.offset, QTensor) else Q.offset
    lines, length = spec.lines(W.shape)
    for row, column in [(0, 0), (5, 31), (23, 159), (11, 128)]:
        line, at = (row, column) if lines > 1 else (0, row * 160 + column)
        group = at // spec.group_in(length)
        level = spec.grid.table.double()[Q.codes[row, column].item()]
        zero = 0 if Q.zero is None else Q.zero[line, group].item()
        minimum = 0.0 if offset is None else offset.double()[line, group].item()
        assert W_hat[row, column].item() == scale[line, group].item() * (level.item() - zero) + minimum


@pytest.mark.parametrize("name", ["int8-row-narrow", "nf4-g64", "mxfp4", "mxfp8"])
def test_quantizing_again_finds_the_grid_again(name: str) -> None:
    Q = quantize(W, name)  # the extreme weight of each group is a level, so its range comes back
    # a float16 scale is rounded once more: at most 2⁻¹¹ relative, 2⁻²² in the squared error
    assert quantize(Q.dequantize(), name).error(Q.dequantize()).rel_mse <= 2**-22


@pytest.mark.parametrize("name", SPECS)
def test_rounding_again_with_the_same_scales_changes_nothing(name: str) -> None:
    Q = quantize(W, name)
    again = encode(Q.dequantize(torch.float64), Q.spec, Q.scale, Q.zero, Q.offset)
    assert torch.equal(Q.spec.grid.decode(again), Q.spec.grid.decode(Q.codes))


@pytest.mark.parametrize("name", [s for s in SPECS if s != "int4-tensor-asym"])
def test_groups_of_zeros_come_back_as_zeros_and_leave_the_others_alone(name: str) -> None:
    small = W[:, :128] * 0.005
    padded = torch.cat([small, torch.zeros(24, 128)], 1)
    Q = quantize(padded, name)
    tiny = 2.0**-24  # a scale that vanished is stored as float16's smallest number
    if Q.spec.group_size is not None:
        assert Q.dequantize()[:, 128:].abs().max() <= tiny
    # scales that are quantized see other neighbours, so their rounding may change: never by a factor of two
    assert Q.error(padded).rel_mse <= 2 * quantize(small, name).error(small).rel_mse


def test_group_index_reads_scattered_groups() -> None:
    Q = quantize(W, "int4-g32-asym")
    order = torch.randperm(160, generator=torch.Generator().manual_seed(4))
    index = torch.arange(160)[order] // 32
    scattered = QTensor(Q.codes[:, order], Q.scale, Q.spec, Q.zero, group_index=index.int())
    assert torch.equal(scattered.dequantize(), Q.dequantize()[:, order])
    assert scattered.bits_stored == Q.bits_stored + 160 * 32


def test_error_norms() -> None:
    Q = quantize(W, "int3-g32-asym")
    E = (W - Q.dequantize()).double()
    X = torch.randn(50, 160, generator=torch.Generator().manual_seed(5)).double()
    eps = 160 * 24 * torch.finfo(torch.float64).eps
    plain = Q.error(W)
    assert plain.mse == pytest.approx(float(E.square().mean()), rel=1e-6)
    assert plain.max_abs == pytest.approx(float(E.abs().max()), rel=1e-6)
    assert plain.snr_db == pytest.approx(10 * math.log10(1 / plain.rel_mse))
    output = Q.error(W, X.T @ X)
    wanted = (X @ (W.double() - Q.dequantize(torch.float64)).T).square().sum() / (X @ W.double().T).square().sum()
    assert output.rel_mse == pytest.approx(float(wanted), rel=1e3 * eps)
    diagonal = X.square().sum(0)
    assert Q.error(W, diagonal).rel_mse == pytest.approx(Q.error(W, diagonal.diag()).rel_mse, rel=1e3 * eps)


def test_error_edge_cases() -> None:
    zeros = torch.zeros(2, 4)
    assert QuantError.of(zeros, zeros).rel_mse == 0 and QuantError.of(zeros, zeros).snr_db == math.inf
    assert QuantError.of(torch.ones(2, 4), zeros).rel_mse == math.inf
    with pytest.raises(QlabError, match="error weights have 3 channels, the matrix 4"):
        QuantError.of(zeros, zeros, torch.ones(3))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 4))
def test_by_group_covers_every_column_once(length: int, size: int, lines: int) -> None:
    spec = QuantSpec.parse(f"int4-g{size}-asym")
    x = torch.arange(lines * length, dtype=torch.float64).reshape(lines, length)
    if size <= length:
        assert torch.equal(by_group(lambda v: v * 2, x, spec), x * 2)
        sums = by_group(lambda v: v.sum(-1), x, spec)
        assert sums.shape == (lines, spec.group_count(length))
        assert sums[0, -1] == x[0, (spec.group_count(length) - 1) * size :].sum()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.tensor([[1.0, torch.nan]]), "lm_head holds nan at row 0, column 1"),
        (torch.tensor([[1.0], [-torch.inf]]), "holds -inf at row 1, column 0"),
        (torch.ones(2, 2, dtype=torch.int8), "holds torch.int8 numbers"),
    ],
)
def test_bad_weights_are_located(bad: torch.Tensor, message: str) -> None:
    with pytest.raises(QlabError, match=message):
        check_finite(bad, "lm_head")


def test_repr_names_what_it_is() -> None:
    assert repr(quantize(W, "int4-g32-asym")) == "QTensor(int4-g32-asym, [24, 160], 4.625 bits/weight)"
