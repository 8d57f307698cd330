"""The vector processor of lesson 16: exact by hand, and equal to the compiled kernels wherever they run."""

import random
from fractions import Fraction

import pytest
import torch
from qlab.kernels import cpu

from qlab import lanes
from qlab.errors import QlabError
from qlab.qtensor import QTensor
from qlab.spec import QuantSpec
from qlab.tiles import tile


def memory(seed=0, blocks=1, exact=True):
    """Random codes and inputs; scales are powers of two where sums are to be exact in any order."""
    draw = random.Random(seed)
    columns = 32 * blocks
    codes = [[draw.randrange(16) for _ in range(columns)] for _ in range(8)]
    inputs = [draw.randrange(-127, 128) for _ in range(columns)]
    for b in range(blocks):
        inputs[32 * b + draw.randrange(32)] = 127  # so that the block's scale is 1

    def scale():
        return 2.0 ** draw.randrange(-3, 2) if exact else half(draw.uniform(0.01, 1))

    scales = [[scale() for _ in range(blocks)] for _ in codes]
    return lanes.Memory(codes, inputs, scales, [1.0] * blocks)


def half(x):
    return float(torch.tensor(x).half())


def by_hand(m):
    """Exact products of the rows."""
    found = []
    for row, scales in zip(m.codes, m.scales, strict=True):
        products = [(c - 8) * x for c, x in zip(row, m.inputs, strict=True)]
        sums = [sum(products[32 * b : 32 * b + 32]) for b in range(m.blocks)]
        found.append(sum(Fraction(s * one) * total for s, one, total in zip(scales, m.one, sums, strict=True)))
    return found


def kernel(m, isa):
    """The same by the compiled kernel: sixteen rows, the lower eight of zeros."""
    codes = torch.full((16, len(m.inputs)), 8, dtype=torch.uint8)
    codes[:8] = torch.tensor(m.codes, dtype=torch.uint8)
    scale = torch.zeros(16, m.blocks, dtype=torch.float16)
    scale[:8] = torch.tensor(m.scales).half()
    W = tile(QTensor(codes, scale, QuantSpec.parse("int4-g32-sym")))
    x = (torch.tensor(m.inputs).reshape(-1, 32) * torch.tensor(m.one)[:, None]).reshape(1, -1)
    return W.multiply(x, isa=isa)[0, :8].tolist()


@pytest.mark.parametrize("isa", lanes.SETS)
@pytest.mark.parametrize("layout", lanes.LAYOUTS)
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_every_program_multiplies(layout, isa, blocks):
    for seed in range(20):
        m = memory(seed, blocks)
        assert [Fraction(y) for y in lanes.multiply(m, layout, isa)] == by_hand(m)


@pytest.mark.parametrize("isa", cpu.isas())
def test_the_compiled_kernels_give_the_same(isa):
    for seed in range(20):
        m = memory(seed, 1 + seed % 3)
        assert kernel(m, isa) == lanes.multiply(m, "tiles", "AVX2") == lanes.multiply(m, "rows", "VNNI")


@pytest.mark.parametrize("isa", [isa for isa in cpu.isas() if isa != "scalar"])
def test_one_block_is_equal_to_the_last_bit_for_any_scale(isa):
    """Two roundings in the same order: scale times scale, then times the sum; the scalar kernel has another order."""
    for seed in range(20):
        m = memory(seed, exact=False)
        assert kernel(m, isa) == lanes.multiply(m, "tiles", "VNNI")


def test_the_largest_sums_stay_exact():
    m = lanes.Memory([[15] * 32] * 8, [127] * 32, [[1.0]] * 8, [1.0])
    for layout in lanes.LAYOUTS:
        for isa in lanes.SETS:
            assert lanes.multiply(m, layout, isa) == [7 * 127 * 32] * 8


def test_instructions_by_hand():
    assert lanes.maddubs([255, 255], [127, 127]) == [32767]  # 64770 does not fit: it is held at the end
    assert lanes.maddubs([255, 255, 1, 2], [-128, -128, 3, -4]) == [-32768, -5]
    assert lanes.add_words([30000], [5000]) == [35000 - 65536]  # wraps
    assert lanes.madd([-32768, -32768], [-32768, -32768]) == [-(2**31)]  # the one case that wraps
    assert lanes.dpbusd([5], [255] * 4, [127] * 4) == [5 + 4 * 255 * 127]
    assert lanes.shift_words([0x21, 0x43], 4) == [0x32, 0x04]
    assert lanes.wrap(128, 8) == -128 and lanes.wrap(-129, 8) == 127


def test_safe_additions_are_the_most_that_never_overflow():
    assert [lanes.safe_additions(bits) for bits in (2, 3, 4, 5, 6, 7, 8)] == [43, 18, 8, 4, 2, 1, 0]
    for bits in range(2, 8):
        most = lanes.safe_additions(bits)
        top = lanes.maddubs([2**bits - 1] * 2, [127, 127])[0]
        assert top * most <= 32767 < top * (most + 1)


def test_counts_are_those_of_the_programs():
    assert lanes.counts("rows", "AVX2", 32)["across"] == 16 * 6
    assert lanes.counts("rows", "AVX2", 4096)["across"] == 16 * 6 / 128
    assert lanes.counts("tiles", "AVX2", 768)["across"] == 0
    # a row's 32 codes and their scale each take the same work, however long the row
    long, short = (lanes.counts("rows", "VNNI", columns) for columns in (768, 4096))
    assert long["scale"] == short["scale"] == 16 * 5
    assert set(long) == set(lanes.KINDS)


def test_every_lane_of_a_tile_is_a_row_and_every_register_of_rows_is_one():
    assert {step.rows for step in lanes.program("tiles", "AVX2")} == {tuple(range(8))}
    assert all(len(set(step.rows)) == 1 for step in lanes.program("rows", "AVX2"))


def test_the_bytes_are_those_of_the_tiles():
    m = memory(3, 2)
    codes = torch.full((16, 64), 8, dtype=torch.uint8)
    codes[:8] = torch.tensor(m.codes, dtype=torch.uint8)
    out = torch.empty(1, 2, 256, dtype=torch.uint8)
    cpu.tile(codes, 4, out, 1)
    assert out.reshape(-1, 64)[:, :32].flatten().tolist() == lanes.packed(m.codes, "tiles")  # the upper eight rows


def test_what_does_not_fit_is_named():
    m = memory()
    with pytest.raises(QlabError, match="31 columns are no multiple of 32"):
        lanes.Memory([row[:31] for row in m.codes], m.inputs[:31], m.scales, m.one)
    with pytest.raises(QlabError, match="codes must be 8 rows of 32"):
        lanes.Memory(m.codes[:7], m.inputs, m.scales, m.one)
    with pytest.raises(QlabError, match="no program for tiles with SSE"):
        lanes.program("tiles", "SSE")
