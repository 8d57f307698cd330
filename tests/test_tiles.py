"""Packed matrices: every QTensor comes out as it went in, costs what its file does, and a refusal says why."""

import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qtensors import CODES, GGML, SCALES, SPECS, made, same, stored_in

import qlab.tiles
from qlab.errors import QlabError
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec
from qlab.tiles import tile, tile_parts, tiled, untiled


def columns_of(spec, blocks=3):
    found = QuantSpec.parse(spec)
    return 512 if found.scale is not None else max(32 * blocks, found.group_size or 0)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=6)
@given(
    rows=st.integers(1, 70), blocks=st.integers(1, 9), seed=st.integers(0, 2**31), order=st.booleans(), data=st.data(),
    codes=st.sampled_from(CODES), scales=st.sampled_from(SCALES), dtype=st.sampled_from(["fp16", "bf16", "fp32"]),
)  # fmt: skip
def test_there_and_back(spec, rows, blocks, seed, codes, scales, order, dtype, data):
    found = spec if spec in GGML else stored_in(spec, dtype)
    nested = QuantSpec.parse(spec).scale is not None
    Q = made(found, rows, columns_of(spec, blocks), seed, codes, scales, order and not nested)
    W, W_hat = tile(Q), Q.dequantize()
    assert same(W.qtensor(), Q)
    assert torch.equal(W.dequantize(), W_hat)
    ids = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=5)), dtype=torch.int64)
    assert torch.equal(W.rows(ids), W_hat[ids])
    first = 16 * data.draw(st.integers(0, (rows - 1) // 16))
    few = data.draw(st.integers(1, rows - first))
    assert torch.equal(W.dequantize(first, few), W_hat[first : first + few])


@given(rows=st.integers(1, 40), n=st.sampled_from([8, 16]), per=st.sampled_from([None, 8]))
def test_numbers_of_groups_there_and_back(rows, n, per):
    values = torch.randn(rows, n)
    packed = tiled(values, per)
    assert packed.shape == (-(-rows // 16), *((n,) if per is None else (n // per, per)), 16)
    assert torch.equal(untiled(packed, rows), values)


@pytest.mark.parametrize("spec", ["q4_0", "q6_k", "int4-g64-asym", "q4_1"])
def test_a_matrix_in_parts_is_the_matrix(spec):
    Q = made(spec, 70, 512)

    def part(x, rows):
        if isinstance(x, QTensor):
            return QTensor(x.codes[rows], part(x.scale, rows), x.spec)
        return None if x is None else x[rows]

    def parts():
        for rows in (slice(0, 32), slice(32, 48), slice(48, 70)):
            yield QTensor(Q.codes[rows], part(Q.scale, rows), Q.spec, part(Q.zero, rows), part(Q.offset, rows))

    W, whole = tile_parts(parts(), 70), tile(Q)
    assert same(W.qtensor(), Q) and W.bits_stored == whole.bits_stored == Q.bits_stored
    assert W.nbytes == whole.nbytes and torch.equal(W.dequantize(), Q.dequantize())


FOUR_BITS = ["q4_0", "q4_1", "q4_k", "iq4_nl", "iq4_xs", "int4-g32-sym", "int4-g128-sym", "int4-g128-asym"]


@pytest.mark.parametrize("spec", FOUR_BITS)
def test_four_bits_cost_what_their_file_does(spec):
    """6 % more at most: a byte for a zero point of 4 bits or a scale of 6, and nothing else."""
    Q = made(spec, 256, 1024)
    W = tile(Q)
    assert W.nbytes <= 1.06 * Q.nbytes and W.bits_stored == Q.bits_stored


@pytest.mark.parametrize("spec", SPECS)
def test_bytes_of_every_format(spec):
    """Codes as packed as a file's; scales and zero points of less than 8 bits, and those in bfloat16, rounded up."""
    Q = made(spec, 256, 1024)
    groups = 256 * Q.spec.group_count(1024)
    spare = 0.0
    if isinstance(Q.scale, QTensor):
        nested = [part for part in (Q.scale, Q.offset) if part is not None]
        spare = sum(8 - part.spec.bits for part in nested) if spec != "q2_k" else 0
    elif Q.zero is not None:
        spare = 8 - Q.spec.bits
    assert tile(Q).nbytes == Q.nbytes + groups * spare / 8


def test_one_scale_for_sixteen_rows_is_padded():
    """A row less than a tile costs a tile."""
    assert tile(made("q4_0", 1, 64)).nbytes == tile(made("q4_0", 16, 64)).nbytes


def _changed(**fields):
    return lambda Q: replace(Q, **{name: change(getattr(Q, name)) for name, change in fields.items()})


REFUSED = [
    (made("int4-g16-sym", 4, 64), "rows of 64 in groups of 16 are no multiples of 32"),
    (made("int4-row-sym", 4, 72), "rows of 72 in groups of 72 are no multiples of 32"),
    (made("nf4-g64-sym", 4, 64), "its grid is not one of integers in rows"),
    (made("int7-g32-sym", 4, 64), "no kernel has these bits with these scales"),
    (made("int5-g32-asym", 4, 64), "no kernel has these bits with these scales"),
    (made("q4_k", 4, 288), "its scales are not those of a super-block"),
    (made("int4-g32-offset-fp32", 4, 64), "its minima are not float16"),
    (_changed(zero=lambda z: z.int() + 250)(made("int4-g32-asym", 4, 64)), "a zero point does not fit a byte"),
    (_changed(zero=lambda z: None)(made("int4-g32-asym", 4, 64)), "neither signed nor have a zero point"),
    (_changed(scale=lambda s: s[:1, :1])(made("int4-g32-sym", 4, 64)), "its scales are shared between rows"),
    (_changed(scale=lambda s: replace(s, scale=s.scale.float()))(made("q6_k", 4, 256)), "not those of a super-block"),
]


@pytest.mark.parametrize("Q, why", REFUSED, ids=[why[:40] for _, why in REFUSED])
def test_what_no_kernel_reads_says_why(Q, why):
    with pytest.raises(QlabError, match=f"{why}.*torch multiplies this layer"):
        tile(Q)


def test_groups_of_two_sizes_are_refused():
    Q = made("int4-g32-sym", 4, 64, order=True)
    uneven = replace(Q, group_index=torch.where(torch.arange(64) == 0, 1, Q.group_index.long() * 0).int())
    with pytest.raises(QlabError, match="groups of int4-g32-sym are not of one size: torch multiplies this layer"):
        tile(uneven)


def test_a_processor_without_vectors_is_told_once(monkeypatch):
    monkeypatch.setattr(qlab.tiles.cpu, "isa", lambda name="": "scalar")
    monkeypatch.delenv("QLAB_CPU_ISA", raising=False)
    qlab.tiles._tell_of_slowness.cache_clear()
    with pytest.warns(UserWarning, match="right but slow"):
        tile(made("q4_0", 16, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tile(made("q4_0", 16, 32))
    qlab.tiles._tell_of_slowness.cache_clear()
