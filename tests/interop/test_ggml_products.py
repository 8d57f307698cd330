"""Our kernels beside ggml's own on the same bytes and inputs: the same numbers, to the order of their sums."""

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType

from qlab.ggml import grid_type
from qlab.peers import ggml
from qlab.tiles import tile

TYPES = ["Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"]
HALF_SUMS = ["Q4_1", "Q5_1"]
"""ggml keeps the sum of a block's inputs in float16 for these, which we do not."""


@pytest.mark.parametrize("name", TYPES + HALF_SUMS)
@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_products_are_ggmls(name, tokens):
    peer = ggml()
    if peer is None:
        pytest.skip("llama.cpp is not built here: `make test-llama-cpp` builds it")
    kind, (rows, columns) = grid_type(name), (128, 768)
    generator = np.random.default_rng(0)
    W = (0.02 * generator.standard_normal((rows, columns))).astype(np.float32)
    X = generator.standard_normal((tokens, columns)).astype(np.float32)
    data = np.zeros((rows, columns // kind.weights * kind.nbytes), np.uint8)
    peer.quantize(W, GGMLQuantizationType[name], data)
    product = peer.products(1).product(data, GGMLQuantizationType[name], columns, X)
    product.run()
    Q = kind.unpack(torch.from_numpy(data))
    ours = tile(Q).multiply(torch.from_numpy(X), half=True).numpy()
    size = np.abs(X) @ Q.dequantize().abs().numpy().T
    # sums of 768 float32 products, or for the others a float16 of relative error 2^-11 in every block
    bound = 2**-11 if name in HALF_SUMS else 768 * 2**-24
    assert (np.abs(ours - product.result()) <= bound * size).all()
    product.close()
