"""Every tensor type against the `gguf` package on random bytes, and byte for byte through QTensor."""

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from qlab.errors import QlabError
from qlab.ggml import block_type, from_planes, grid_type, grid_types, to_planes, type_names
from qlab.ggml.kquants import pack_sixes, unpack_sixes
from qlab.methods import quantize

NOT_BYTE_EXACT = {"TQ1_0": "243 numbers in a byte of 256: other bytes mean the same digits"}


def random_rows(name: str, rows: int = 64) -> np.ndarray:
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    per_row = 1024 // block
    return np.random.default_rng(len(name)).integers(0, 256, (rows, per_row * size), dtype=np.uint8)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities and NaN among random scales
@pytest.mark.parametrize("name", type_names())
def test_decoding_equals_the_gguf_package_on_random_bytes(name):
    data = random_rows(name)
    theirs = gguf.quants.dequantize(data, GGMLQuantizationType[name]).reshape(len(data), -1)
    ours = block_type(name).decode(torch.from_numpy(data)).numpy()
    assert ours.dtype == np.float32 and np.array_equal(ours, theirs, equal_nan=True)
    if name in grid_types():
        assert np.array_equal(grid_type(name).unpack(torch.from_numpy(data)).dequantize().numpy(), ours, equal_nan=True)


@pytest.mark.parametrize("name", type_names())
def test_sizes_are_ggmls(name):
    kind = block_type(name)
    assert (kind.weights, kind.nbytes) == GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    if name in grid_types():
        assert grid_type(name).spec.bits_per_weight((4, 512)) == kind.bits_per_weight


@pytest.mark.parametrize("name", grid_types())
def test_random_bytes_come_back_from_a_qtensor(name):
    data = torch.from_numpy(random_rows(name))
    kind = grid_type(name)
    Q = kind.unpack(data)
    back = kind.pack(Q)
    assert Q.shape == (64, 1024) and Q.spec == kind.spec and Q.bits_per_weight == kind.bits_per_weight
    if name in NOT_BYTE_EXACT:
        assert (back != data).any() and torch.equal(kind.pack(kind.unpack(back)), back)
        assert torch.equal(kind.unpack(back).codes, Q.codes)
    else:
        assert torch.equal(back, data)


@pytest.mark.parametrize("name", grid_types())
def test_any_method_fills_a_block(name):
    """Plain rounding under a type's spec goes into its blocks and comes back as the same numbers."""
    W = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    kind = grid_type(name)
    Q = quantize(W, kind.spec, "rtn")
    W_hat = kind.decode(kind.pack(Q))
    assert torch.equal(W_hat, Q.dequantize())
    assert Q.error(W).rel_mse < (0.75 if name in ("TQ1_0", "TQ2_0") else 0.25 if name == "Q2_K" else 0.05)


def test_planes_and_sixes_are_inverses():
    codes = torch.randint(0, 16, (5, 256), dtype=torch.uint8)
    for run in (1, 8, 16, 32, 64):
        assert torch.equal(from_planes(to_planes(codes, 4, run), 4, run), codes)
    scales, minima = torch.randint(0, 64, (2, 1000, 8), dtype=torch.uint8)
    packed = pack_sixes(scales, minima)
    assert packed.shape == (1000, 12)
    assert all(torch.equal(a, b) for a, b in zip(unpack_sixes(packed), (scales, minima), strict=True))


def test_what_does_not_fit_is_named():
    with pytest.raises(QlabError, match=r"^unknown tensor type 'Q9_K': choose one of .*Q4_K"):
        block_type("Q9_K")
    with pytest.raises(QlabError, match="IQ2_XS is not quantized to"):
        grid_type("IQ2_XS")
    with pytest.raises(QlabError, match=r"blk.0.x has rows of 576: Q4_K needs a multiple of 256"):
        block_type("Q4_K").check((4, 576), "blk.0.x")
    with pytest.raises(QlabError, match=r"int4-g64-asym does not fit into Q4_K, which is q4_k: quantize to that"):
        grid_type("Q4_K").pack(quantize(torch.randn(4, 256), "int4-g64-asym"))
    with pytest.raises(QlabError, match="Q4_0: rows of 17"):
        block_type("Q4_0").decode(torch.zeros(2, 17, dtype=torch.uint8))
    with pytest.raises(QlabError, match=r"7e\+04 does not fit F16: choose BF16 or F32"):
        block_type("F16").encode_plain(torch.tensor([[7e4]]))
