"""QLinear: the product with W_hat, inputs rounded per token, the size a file would have."""

import pytest
import torch
from torch import nn

from qlab.errors import QlabError
from qlab.methods import quantize
from qlab.nn import QLinear, fake_quantize, packed_bytes
from qlab.spec import QuantSpec

GENERATOR = torch.Generator().manual_seed(0)
W, X = torch.randn(24, 96, generator=GENERATOR), torch.randn(2, 5, 96, generator=GENERATOR)
INT8 = QuantSpec.parse("int8-token-sym")


def test_forward_is_the_product_with_w_hat() -> None:
    linear = QLinear(quantize(W, "int4-g32-asym"), bias=torch.arange(24.0))
    assert torch.equal(linear(X), nn.functional.linear(X, linear.W_hat(), torch.arange(24.0)))
    assert (linear.in_features, linear.out_features) == (96, 24)
    assert linear(X.bfloat16()).dtype == torch.bfloat16


def test_w8a8_equals_the_integer_product() -> None:
    linear = QLinear(quantize(W, "int8-row-sym-fp32"), input_spec=QuantSpec.parse("int8-token-sym-fp32"))
    rows = X.reshape(-1, 96)
    QX = quantize(rows, "int8-token-sym-fp32")
    integers = (QX.codes.long() - 128) @ (linear.qtensor.codes.long() - 128).T  # exact int8 × int8 → int32
    wanted = integers.double() * QX.scale.double() * linear.qtensor.scale.double().T
    # a float32 dot product of 96 terms: error ≤ 96 · 2⁻²⁴ · Σ|x·w|
    bound = 96 * 2**-24 * (QX.dequantize().abs() @ linear.W_hat().abs().T) * 2
    assert ((linear(X).reshape(-1, 24) - wanted).abs() <= bound).all()


def test_each_token_has_its_own_scale() -> None:
    big = X.clone()
    big[0, 0] *= 1000
    assert torch.equal(fake_quantize(big, INT8)[0, 1:], fake_quantize(X, INT8)[0, 1:])
    step = X.abs().amax(-1, keepdim=True) / 127.5
    # half a step of rounding, and a float16 scale that is off by up to 2⁻¹¹ under a code of up to 128
    assert ((fake_quantize(X, INT8) - X).abs() <= step * (0.5 + 128 * 2**-11) * 1.001).all()


def test_activations_that_are_no_numbers_are_located() -> None:
    with pytest.raises(QlabError, match="activations holds nan at row 0, column 1"):
        fake_quantize(torch.tensor([[1.0, torch.nan]]), INT8)


def test_packed_bytes_counts_tied_weights_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 96)
            self.head = nn.Linear(96, 10, bias=False)
            self.head.weight = self.embedding.weight
            self.body = QLinear(quantize(W, "int4-g32-sym"))

    assert packed_bytes(Tied()) == 10 * 96 * 2 + 24 * 96 * 4.5 / 8


def test_extra_repr_names_both_specs() -> None:
    linear = QLinear(quantize(W, "int4-g32-asym"), input_spec=INT8)
    assert "weight=int4-g32-asym" in repr(linear) and "input=int8-row-sym" in repr(linear)
