"""The figures of lesson 16."""

import pytest
import torch
from qlab.kernels import cpu

from qlab.lanes import KINDS, counts
from qlab.plots import instruction_bars, kernels, roofline, tile_layout

ROWS = [
    {"type": "Q4", "m": 1, "gbps": 10.0, "gflops": 35.0},
    {"type": "Q4", "m": 16, "gbps": 4.0, "gflops": 224.0},
    {"type": "Q8", "m": 1, "gbps": 12.0, "gflops": 22.0},
]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_the_drawn_layout_is_the_compiled_one(bits):
    """A single code in a matrix of zeros shows up in the bytes, and the bits, where its column is drawn."""
    cells, columns = tile_layout(bits).data
    fields = [width for width in kernels.planes(bits) for _ in range(8)]  # 8 rows of the figure to a plane
    assert len(cells.y) == len(fields) and len(columns.text) == 8 * len(fields)
    for column in (0, 7, 18, 31):
        codes = torch.zeros(16, 32, dtype=torch.uint8)
        codes[1, column] = 2**bits - 1
        out = torch.empty(1, 1, 64 * bits, dtype=torch.uint8)
        cpu.tile(codes, bits, out, 1)
        found = {(int(at) // 64, int(at) % 64) for at in out.flatten().nonzero()}
        drawn = {
            (int(label.split(",")[0][1:]), byte)
            for label, texts in zip(cells.y, cells.customdata, strict=True)
            for byte, text in enumerate(texts)
            if text == column and byte // 4 == 1
        }
        assert found == drawn


def test_bars_are_the_counts_in_the_order_of_the_programs():
    given = {layout: counts(layout, "AVX2", 768) for layout in ("rows", "tiles")}
    fig = instruction_bars(given)
    assert set(kernels.KINDS) == set(KINDS)
    across = next(bar for bar in fig.data if bar.name == "sum across lanes")
    assert list(across.y) == ["rows", "tiles"] and list(across.x) == [4, 0]
    assert sum(bar.x[1] for bar in fig.data) == pytest.approx(sum(given["tiles"].values()), rel=5e-3)


def test_the_roof_bends_where_both_ceilings_meet():
    roof, q4, q8 = roofline(ROWS, read=10.0, compute=400.0).data
    assert list(roof.y) == [pytest.approx(10 * roof.x[0], rel=5e-3), 400, 400] and roof.x[1] == 40
    assert list(q4.x) == [3.5, 56] and list(q4.text) == ["1", "16"]
    assert q4.marker.symbol != q8.marker.symbol
    assert roof.x[0] < min(q8.x) and roof.x[2] > max(q4.x)
