"""X·Wᵀ in the interpreter against float64: every kernel and width, ragged sizes, shares, act-order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qlab.kernels import triton as kernels
from qlab.kernels.triton import choose, launch
from triton_cases import BOUND, case, error, inputs

ROWS = (1, 3, 16, 17, 64, 100)
CUBES = torch.linspace(-1, 1, 16) ** 3


def product(one, M, **asked):
    X = inputs(M, one.W.shape[1])
    return error(kernels.multiply(X, one.weights, **asked), X.double() @ one.W.T)


@settings(max_examples=20)
@given(
    st.sampled_from(choose.KERNELS), st.integers(1, 8), st.sampled_from([16, 32, 64, 128, None]), st.booleans(),
    st.booleans(), st.sampled_from(ROWS), st.sampled_from([(100, 384), (64, 640), (130, 128)]), st.booleans(),
)  # fmt: skip
def test_every_kernel(kernel, bits, group, zero, order, M, shape, deterministic):
    one = case(bits, *shape, group, zero, order)
    assert product(one, M, kernel=kernel, deterministic=deterministic) < BOUND


@pytest.mark.parametrize("M", ROWS)
def test_the_chosen_kernel_at_1024(M):
    if M in (1, 64):
        assert product(case(4, 1024, 1024, 128), M) < BOUND
    else:
        assert product(case(4, 200, 1024, 128), M) < BOUND


@pytest.mark.parametrize("kernel", choose.KERNELS)
@pytest.mark.parametrize("group", [32, 128, None])
def test_a_codebook(kernel, group):
    assert product(case(4, 70, 384, group, codebook=CUBES), 5, kernel=kernel) < BOUND


@pytest.mark.parametrize("split", choose.SPLITS)
@pytest.mark.parametrize("deterministic", [False, True])
def test_shares(split, deterministic):
    one = case(4, 70, 4096, 128, zero=True)
    config = kernels.Config("gemv", BM=8, split=split)
    assert product(one, 3, kernel=config, deterministic=deterministic) < BOUND


def test_shares_are_added_in_one_order():
    one, X = case(4, 70, 4096, 128), inputs(3, 4096)
    config = kernels.Config("gemv", BM=8, split=8)
    first, second = (kernels.multiply(X, one.weights, kernel=config, deterministic=way) for way in (False, True))
    assert torch.equal(first, second)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_both_orders_of_operands_and_both_places_of_the_scale(late, swap):
    config = kernels.Config("gemm", BM=32, BN=64, stages=2, late=late, swap=swap)
    assert product(case(4, 130, 512, 64, zero=True), 50, kernel=config) < BOUND


def test_rows_beyond_the_first_tiles():
    config = kernels.Config("gemm", BM=16, BN=32, stages=2)
    assert product(case(4, 40, 128, 32), 16 * 9 + 3, kernel=config) < BOUND  # two groups of eight tiles


def test_real_zeros():
    one = case(4, 40, 256, 64)
    codes, scale, _ = kernels.unpack(one.weights)
    zero = torch.linspace(0.0, 15.0, 40 * 4).reshape(40, 4).half()
    weights = kernels.pack(codes, scale, zero, bits=4)
    W = (codes.double() - zero.double().repeat_interleave(64, 1)) * scale.double().repeat_interleave(64, 1)
    X = inputs(4, 256)
    assert error(kernels.multiply(X, weights), X.double() @ W.T) < 2 * BOUND  # code − zero is rounded as well


def test_out_is_written_in_place_and_no_rows_are_no_work():
    one, out = case(4, 40, 256, 64), torch.empty(4, 40).half()
    assert kernels.multiply(inputs(4, 256), one.weights, out).data_ptr() == out.data_ptr()
    assert kernels.multiply(torch.empty(0, 256).half(), one.weights).shape == (0, 40)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("zero", [False, True])
def test_dequantize(bits, zero):
    one = case(bits, 70, 384, 64, zero, order=True)
    # one rounding to float16
    assert torch.equal(kernels.dequantize(one.weights), one.W.half())


def test_the_interpreter_refuses_bfloat16():
    weights = kernels.pack(torch.zeros(8, 64, dtype=torch.uint8), torch.ones(8, 1).bfloat16(), bits=4)
    with pytest.raises(RuntimeError, match="interpreter multiplies bfloat16 wrongly"):
        kernels.multiply(torch.ones(1, 64).bfloat16(), weights)
    assert launch.INTERPRETED
