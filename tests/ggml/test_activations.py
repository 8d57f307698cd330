"""Activations as llama.cpp rounds them: error within half a step of a block, extremes exact, zeros zero."""

import pytest
import torch

from qlab.ggml import type_names
from qlab.ggml.activations import as_llama_cpp_rounds


@pytest.mark.parametrize(("kind", "block"), [("Q4_0", 32), ("Q8_0", 32), ("Q4_K", 256), ("IQ4_XS", 256)])
def test_half_a_step_of_each_block(kind, block):
    X = torch.randn(2, 3, 512, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 512)
    peak = X.reshape(-1, block).abs().amax(1)
    error = (as_llama_cpp_rounds(X, kind) - X).reshape(-1, block).abs().amax(1)
    # half a step, and the float16 scale of 32-blocks is off by at most 2⁻¹¹ of 127 steps
    assert (error <= peak / 127 * (0.5 + 127 * 2**-11 * (block == 32)) * (1 + 1e-6)).all()
    assert error.max() > 0


def test_a_k_block_keeps_its_extreme_and_zeros_stay():
    X = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    X[1] = 0
    rounded = as_llama_cpp_rounds(X, "Q6_K")
    at = X.abs().argmax(1, keepdim=True)
    torch.testing.assert_close(rounded.gather(1, at), X.gather(1, at), rtol=1e-6, atol=0)
    assert (rounded[1] == 0).all() and (as_llama_cpp_rounds(X, "Q4_0")[1] == 0).all()


def test_floats_are_rounded_to_what_they_are_multiplied_in():
    X = torch.tensor([[1 + 2**-12, 1 + 2**-9]])
    assert as_llama_cpp_rounds(X, "F16").tolist() == [[1, 1 + 2**-9]]
    assert as_llama_cpp_rounds(X, "BF16").tolist() == [[1, 1]]
    assert torch.equal(as_llama_cpp_rounds(X, "F32"), X)
    assert as_llama_cpp_rounds(X.bfloat16(), "F16").dtype == torch.bfloat16


def test_every_type_is_known():
    for kind in type_names():
        assert as_llama_cpp_rounds(torch.ones(1, 256), kind).shape == (1, 256)
