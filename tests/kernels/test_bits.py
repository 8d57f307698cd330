"""Packing in C++ against the same in torch: word for word, at every width, shape, axis and layout."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qlab.kernels import cpu

from qlab.bits import pack_bits, pack_in_torch, unpack_bits, unpack_in_torch
from qlab.errors import QlabError


def draw(bits, shape, seed, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, shape, generator=generator, dtype=torch.int64).to(dtype)


SHAPES = st.lists(st.integers(0, 70), min_size=1, max_size=3)


@given(st.integers(1, 8), SHAPES, st.integers(-3, 2), st.integers(0, 2**31), st.sampled_from(["", "t", "step"]))
def test_the_words_are_torchs(bits, shape, axis, seed, layout):
    axis = axis % len(shape)
    codes = draw(bits, shape, seed)
    codes = codes.movedim(0, -1) if layout == "t" else codes[..., ::2] if layout == "step" else codes
    words = pack_bits(codes, bits, axis)
    assert words.dtype == torch.int32 and words.is_contiguous()
    assert torch.equal(words, pack_in_torch(codes, bits, axis))
    back = unpack_bits(words, bits, codes.shape[axis], axis)
    assert back.dtype == torch.uint8 and torch.equal(back, codes)
    # of words that nobody packed, with bits set behind the last code
    noise = draw(32, words.shape, seed, torch.int32)
    count = codes.shape[axis]
    assert torch.equal(unpack_bits(noise, bits, count, axis), unpack_in_torch(noise, bits, count, axis))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape, axis", [((3, 40_001), 1), ((70_000,), 0), ((65, 1030), 0), ((2, 33, 257), 1)])
def test_pieces_of_several_threads_meet(bits, shape, axis):
    codes = draw(bits, shape, bits)
    before = torch.get_num_threads()
    wanted = pack_in_torch(codes, bits, axis)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(pack_bits(codes, bits, axis), wanted)
            assert torch.equal(unpack_bits(wanted, bits, shape[axis], axis), codes)
    finally:
        torch.set_num_threads(before)


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 300), st.sampled_from([0, 1]), st.data())
def test_a_code_that_does_not_fit_is_found_wherever_it_is(bits, n, axis, data):
    codes = draw(bits, (n, 3) if axis == 0 else (3, n), 0)
    at = data.draw(st.integers(0, codes.numel() - 1))
    codes.view(-1)[at] = data.draw(st.integers(2**bits, 255))
    with pytest.raises(QlabError, match=f"{bits} bits hold 0 … {2**bits - 1}"):
        pack_bits(codes, bits, axis)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_other_integers(dtype):
    codes = draw(1, (4, 70), 0, dtype)
    assert torch.equal(pack_bits(codes, 3), pack_in_torch(codes, 3))
    if dtype not in (torch.bool, torch.int8):
        with pytest.raises(QlabError, match="256"):  # a byte of it would fit
            pack_bits(torch.tensor([256, 0], dtype=dtype), 3)


def test_nothing_is_written_behind_the_arrays():
    for bits in range(1, 9):
        for n, inner in [(33, 1), (100, 1), (64, 1), (33, 5), (64, 300)]:
            size = -(-n * bits // 32)
            words, codes = np.full(size * inner + 8, 7, np.int32), np.full(n * inner + 8, 7, np.uint8)
            given = np.zeros((1, n, inner), np.uint8)
            assert cpu.pack_bits(given, bits, words[: size * inner].reshape(1, size, inner))
            packed, back = words[: size * inner].reshape(1, size, inner), codes[: n * inner].reshape(1, n, inner)
            cpu.unpack_bits(packed, bits, back)
            assert (words[-8:] == 7).all() and (codes[-8:] == 7).all()
            assert not words[:-8].any() and not codes[:-8].any()


@pytest.mark.parametrize(
    "codes, bits, words, threads, said",
    [
        ((1, 32, 1), 9, (1, 9, 1), 1, "bits is 9"),
        ((32, 1), 4, (1, 4, 1), 1, "codes must be"),
        ((1, 32, 1), 4, (1, 3, 1), 1, r"words is \[1, 3, 1\] where \[1, 4, 1\] is expected"),
        ((1, 32, 1), 4, (1, 4, 1), 0, "threads is 0"),
    ],
)
def test_what_is_refused(codes, bits, words, threads, said):
    codes, words = np.zeros(codes, np.uint8), np.zeros(words, np.int32)
    with pytest.raises(ValueError, match=said):
        cpu.pack_bits(codes, bits, words, threads)
    with pytest.raises(ValueError, match=said):
        cpu.unpack_bits(words, bits, codes, threads)
