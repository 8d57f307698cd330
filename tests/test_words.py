"""The two layouts of a run: the stream is qlab.bits', the planes are the GPU kernels', and each operation is true."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from qlab.kernels import triton as gpu

from qlab import words
from qlab.bits import pack_bits
from qlab.errors import QlabError

BITS = range(1, 9)


def run(bits: int, seed: int) -> list[int]:
    return torch.randint(0, 2**bits, (words.RUN,), generator=torch.Generator().manual_seed(seed)).tolist()


@given(st.sampled_from(words.LAYOUTS), st.integers(1, 8), st.integers(0, 2**31))
def test_every_bit_of_the_words_belongs_to_one_code(layout: str, bits: int, seed: int) -> None:
    found = [field for code in range(words.RUN) for field in words.fields(layout, bits, code)]
    places = [(field.word, field.shift + k) for field in found for k in range(field.width)]
    assert sorted(places) == [(word, bit) for word in range(bits) for bit in range(32)]


@given(st.sampled_from(words.LAYOUTS), st.integers(1, 8), st.integers(0, 2**31))
def test_the_operations_end_in_what_was_packed(layout: str, bits: int, seed: int) -> None:
    codes = run(bits, seed)
    packed = words.pack(layout, bits, codes)
    assert all(0 <= word < 2**32 for word in packed)
    middle = 2 ** (bits - 1)
    for i, code in enumerate(codes):
        pair = (codes[i - i % 2] - middle, codes[i - i % 2 + 1] - middle)
        done = words.read(layout, bits, packed, i)
        assert done[-1].result == ((code - middle,) if layout == "stream" else pair)
        assert all(isinstance(step.result, int) and 0 <= step.result < 2**32 for step in done[:-1])


@given(st.integers(1, 8), st.integers(0, 2**31))
def test_the_last_register_holds_half_precision_numbers(bits: int, seed: int) -> None:
    codes = run(bits, seed)
    for layout, count in (("stream", 1), ("planes", 2)):
        packed = words.pack(layout, bits, codes)
        for i in range(0, words.RUN, 2):
            register = words.read(layout, bits, packed, i)[-2].result
            halves = np.array([register], np.uint32).view(np.float16)[:count]
            assert halves.tolist() == [1024 + code for code in codes[i : i + count]]


@given(st.integers(1, 8), st.integers(0, 2**31))
def test_the_stream_is_that_of_the_library(bits: int, seed: int) -> None:
    codes = run(bits, seed)
    library = pack_bits(torch.tensor(codes), bits)
    assert words.pack("stream", bits, codes) == [int(word) & 0xFFFFFFFF for word in library]


@pytest.mark.skipif(not gpu.available, reason=gpu.missing)
@pytest.mark.parametrize("bits", BITS)
def test_the_planes_are_those_of_the_gpu_kernels(bits: int) -> None:
    from qlab.kernels.triton.unpack import parts
    from qlab.kernels.triton.weights import pack_codes

    codes = torch.tensor([run(bits, 5)], dtype=torch.uint8)
    theirs = pack_codes(codes, bits, words.RUN // parts.fn(bits)).flatten().view(torch.int32)
    assert words.pack("planes", bits, codes[0].tolist()) == [int(word) & 0xFFFFFFFF for word in theirs]


def test_codes_straddle_where_the_width_does_not_divide_a_word() -> None:
    found = {bits: words.straddling("stream", bits) for bits in BITS}
    assert found[3] == [10, 21]
    assert [bits for bits in BITS if found[bits]] == [3, 5, 6, 7]
    assert not any(words.straddling("planes", bits) for bits in BITS)


def test_operations_by_hand() -> None:
    # 4 bits: of eight codes in a word the lowest needs no shift; logic and a sum for every one
    assert words.operations("stream", 4) == (7 * 3 + 2) / 8
    # pairs: the lowest of four fields needs no shift, and each operation serves two
    assert words.operations("planes", 4) == (3 * 3 + 2) / 4 / 2
    # a straddling code takes two shifts and two pieces of logic
    assert [len(words.read("stream", 3, [0] * 3, code)) for code in (0, 1, 10)] == [2, 3, 5]
    assert all(words.operations("planes", bits) < words.operations("stream", bits) for bits in (1, 2, 3, 4, 5, 6, 8))


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(QlabError, match="codes of 9 bits: they have 1 to 8"):
        words.planes(9)
    with pytest.raises(QlabError, match="code 32 of layout 'stream'"):
        words.fields("stream", 3, 32)
