"""Integer activations against float64: sums are exact, so only the scales' products and the result are rounded."""

import pytest
import torch
from qlab.kernels import triton as kernels
from triton_cases import BOUND, case, error, inputs


@pytest.mark.parametrize("bits, group", [(4, 64), (4, 128), (4, None), (8, 128), (8, None)])
@pytest.mark.parametrize("activations", [8, 4])
@pytest.mark.parametrize("M, K", [(1, 384), (17, 640)])
def test_products(bits, group, activations, M, K):
    one, X = case(bits, 70, K, group, order=group == 128), inputs(M, K)
    X[0, 0] = 0
    # x̂ = round(x / s) s with s = max|x| / (2^(b−1) − 1), row by row
    scale = X.float().abs().amax(1, keepdim=True) / (2 ** (activations - 1) - 1)
    X_hat = (X.float() / scale).round().double() * scale.double()
    assert error(kernels.multiply_int8(X, one.weights, bits=activations), X_hat @ one.W.T) < BOUND


def test_a_row_of_zeros():
    one = case(8, 40, 64, None)
    assert not kernels.multiply_int8(torch.zeros(2, 64).half(), one.weights).any()


REFUSED = [
    ({"bits": 3}, 8, "weights of 3 bits"), ({"zero": True}, 8, "with zeros or a codebook"),
    ({"group": 32}, 8, "group 32 is below 64"), ({}, 5, "activations of 5 bits"),
]  # fmt: skip


@pytest.mark.parametrize("kind, activations, message", REFUSED)
def test_what_is_refused(kind, activations, message):
    one = case(**({"bits": 4, "N": 8, "K": 256, "group": 128} | kind))
    with pytest.raises(ValueError, match=message):
        kernels.multiply_int8(inputs(1, 256), one.weights, bits=activations)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row_and_shows(bad):
    one, X = case(4, 40, 256, 128), inputs(3, 256)
    X[1, 77] = bad
    Y = kernels.multiply_int8(X, one.weights)
    assert not Y[1].isfinite().any() and Y[[0, 2]].isfinite().all()
