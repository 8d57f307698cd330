"""Packing: nothing is lost, every bit has one place, and what does not fit is refused by name."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qlab.kernels import triton as kernels
from qlab.kernels.triton.unpack import parts, places, tiles
from triton_cases import case, inputs

CODES = torch.zeros(8, 64, dtype=torch.uint8)
SCALE = torch.ones(8, 2).half()


@given(
    st.integers(1, 8), st.sampled_from([16, 32, 64, 128, 256, None]), st.booleans(), st.booleans(), st.integers(1, 70)
)
def test_unpack_is_the_inverse(bits, group, zero, order, N):
    K = 768 if group else 96
    draw = torch.Generator().manual_seed(N)
    codes = torch.randint(0, 2**bits, (N, K), dtype=torch.uint8, generator=draw)
    scale = torch.rand(N, K // (group or K), generator=draw).half() + 0.1
    zeros = torch.randint(0, 2**bits, scale.shape, generator=draw) if zero else None
    weights = kernels.pack(codes, scale, zeros, bits=bits, order=torch.randperm(K) if order else None)
    got_codes, got_scale, got_zero = kernels.unpack(weights)
    assert torch.equal(got_codes, codes) and torch.equal(got_scale, scale)
    assert got_zero is None if zeros is None else torch.equal(got_zero, zeros.half())


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_bit_of_a_block_has_one_place(bits):
    spots = [spot for part in range(parts(bits)) for spot in places(bits, part)]
    used = [(tile, shift + i) for tile, shift, width, _ in spots for i in range(width)]
    assert sorted(used) == [(tile, bit) for tile in range(tiles(bits)) for bit in range(16)]


def test_four_bits_at_group_128_are_0_5156_bytes_a_weight():
    weights = case(4, 64, 1024, 128).weights
    assert weights.nbytes == (0.5 + 2 / 128) * 64 * 1024


REFUSED = [
    ({"bits": 9}, "bits is 9"),
    ({"codes": CODES.int(), "bits": 4}, "codes are torch.int32"),
    ({"codes": CODES + 16, "bits": 4}, "a code is 16: 4 bits end at 15"),
    ({"scale": SCALE.float(), "bits": 4}, "dtype is torch.float32"),
    ({"scale": SCALE[:4], "bits": 4}, r"scale is \[4, 2\]"),
    ({"scale": torch.ones(8, 3).half(), "bits": 4}, "3 groups do not divide K = 64"),
    ({"scale": torch.ones(8, 8).half(), "bits": 4}, "group 8 with K = 64: give a power of two of at least 16"),
    ({"codes": CODES[:, :48], "scale": SCALE[:, :1], "bits": 4}, "K = 48 is no multiple of 32"),
    ({"zero": SCALE[:, :1], "bits": 4}, r"zero is \[8, 1\], scale is \[8, 2\]"),
    ({"codebook": torch.ones(16), "bits": 3}, "a codebook has 16 entries"),
    ({"order": torch.zeros(64, dtype=torch.int64), "bits": 4}, "order is no permutation of 0 … 63"),
    ({"order": torch.arange(32), "bits": 4}, r"order is torch.int64 \[32\]"),
    ({"scale": SCALE * float("inf"), "bits": 4}, "scale is not finite"),
    ({"scale": SCALE.to("meta"), "bits": 4}, "scale is on another device"),
]


@pytest.mark.parametrize("asked, message", REFUSED)
def test_what_pack_refuses(asked, message):
    with pytest.raises(ValueError, match=message):
        kernels.pack(**({"codes": CODES, "scale": SCALE} | asked))


X = inputs(4, 64)
REFUSED_X = [
    (X[:, :32], {}, r"X is \[4, 32\]: give \[M, K\] with K = 64"),
    (X.float(), {}, "X is torch.float32, the weights were packed for torch.float16"),
    (X.T.contiguous().T, {}, "stride 4 along K: call X.contiguous"),
    (inputs(4, 65)[:, 1:], {}, "does not start at a multiple of 16 bytes"),
    (torch.empty(4 * 65).half()[:260].as_strided((4, 64), (65, 1)), {}, "rows of X are 65 elements apart"),
    (X.to("meta"), {}, "X is on meta, weights on cpu"),
    (X, {"out": torch.empty(4, 9).half()}, r"out is torch.float16 \[4, 9\]"),
    (X, {"out": torch.empty(8, 4).half().T}, "give contiguous"),
    (X, {"kernel": "fastest"}, "there is no kernel 'fastest': give one of gemv"),
    (X, {"kernel": kernels.Config("gemm", BM=512, BN=512)}, "bytes of shared memory, the device has"),
]


@pytest.mark.parametrize("X, asked, message", REFUSED_X)
def test_what_multiply_refuses(X, asked, message):
    with pytest.raises(ValueError, match=message):
        kernels.multiply(X, kernels.pack(CODES, SCALE, bits=4), **asked)
