"""Packing: a bijection, equal to GPTQ's word formulas, at every width, axis and raggedness."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlab.bits import pack_bits, unpack_bits
from qlab.errors import QlabError


@given(st.integers(1, 8), st.integers(0, 100), st.integers(1, 4), st.sampled_from([0, 1, -1]), st.integers(0, 2**31))
def test_unpack_inverts_pack(bits: int, n: int, lines: int, axis: int, seed: int) -> None:
    shape = (n, lines) if axis == 0 else (lines, n)
    codes = torch.randint(0, 2**bits, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    words = pack_bits(codes, bits, axis)
    assert words.shape[axis] == -(-n * bits // 32) and words.dtype == torch.int32
    assert torch.equal(unpack_bits(words, bits, n, axis), codes)


@given(st.integers(1, 8), st.integers(1, 70), st.integers(0, 2**31))
def test_pack_is_one_little_endian_bitstream(bits: int, n: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    stream = sum(code << (i * bits) for i, code in enumerate(codes))  # a Python integer of n·bits bits
    words = pack_bits(torch.tensor(codes), bits)
    assert sum((int(w) & 0xFFFFFFFF) << (32 * i) for i, w in enumerate(words)) == stream


def test_three_bits_follow_gptqs_rule() -> None:
    # 10-1-10-1-10: the eleventh code has two bits in word 0 and one in word 1
    codes = torch.zeros(32, dtype=torch.uint8)
    codes[10] = 0b111
    word0, word1, word2 = (int(w) & 0xFFFFFFFF for w in pack_bits(codes, 3))
    assert (word0, word1, word2) == (0b11 << 30, 1, 0)


def test_packed_size_is_the_bits() -> None:
    assert pack_bits(torch.zeros(5, 64, dtype=torch.uint8), 3).shape == (5, 6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(QlabError, match="codes span 0 … 8: 3 bits hold 0 … 7"):
        pack_bits(torch.tensor([0, 8]), 3)
    with pytest.raises(QlabError, match="-1"):
        pack_bits(torch.tensor([-1, 2]), 3)
    with pytest.raises(QlabError, match="float32"):
        pack_bits(torch.ones(4), 4)
    with pytest.raises(QlabError, match="bits must be 1 to 8"):
        pack_bits(torch.tensor([1]), 9)
    with pytest.raises(QlabError, match="need 4 words, got 3"):
        unpack_bits(torch.zeros(3, dtype=torch.int32), 4, 32)
