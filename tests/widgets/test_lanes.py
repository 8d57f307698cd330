"""The widget of lesson 16: its processor is Python's on every program, and its words are true."""

import json
import random

import pytest

from qlab import lanes, load_fixture
from qlab.errors import QlabError
from qlab.widgets.lanes import block_of, lane_view, listed
from tests.test_lanes import memory
from tests.widgets.node import call

KEYS = ("name", "operation", "kind", "out", "reads", "at", "row", "alive", "quad")


@pytest.fixture(scope="module")
def fixture():
    return load_fixture("down_proj.11")


def steps(layout, isa):
    return [dict(zip(KEYS, step, strict=True)) for step in listed(layout, isa)]


def given(m, layout):
    return {"inputs": m.inputs, "scales": m.scales, "one": m.one, "data": lanes.packed(m.codes, layout)}


@pytest.mark.parametrize("isa", lanes.SETS)
@pytest.mark.parametrize("layout", lanes.LAYOUTS)
def test_every_register_is_pythons_after_every_instruction(layout, isa):
    cases = [memory(seed, exact=False) for seed in range(10)]
    theirs = call("vector.js", "execute", *([steps(layout, isa), given(m, layout)] for m in cases))
    for m, results in zip(cases, theirs, strict=True):
        assert results == lanes.execute(lanes.program(layout, isa), m, layout)


def test_instructions_are_pythons_on_any_bytes():
    draw = random.Random(0)

    def some(low, high, count):
        return [draw.randrange(low, high) for _ in range(count)]

    pairs = [(some(0, 256, 32), some(-128, 128, 32)) for _ in range(50)]
    assert call("vector.js", "maddubs", *pairs) == [lanes.maddubs(u, s) for u, s in pairs]
    words = [[some(-(2**15), 2**15, 16) for _ in range(2)] for _ in range(50)]
    assert call("vector.js", "madd", *words) == [lanes.madd(a, b) for a, b in words]
    assert call("vector.js", "addWords", *words) == [lanes.add_words(a, b) for a, b in words]
    shifts = [[u, n] for (u, _), n in zip(pairs, range(50), strict=True) if n < 16]
    assert call("vector.js", "shiftWords", *shifts) == [lanes.shift_words(u, n) for u, n in shifts]
    sums = [[some(-(2**31), 2**31, 8), u, s] for u, s in pairs]
    assert call("vector.js", "dpbusd", *sums) == [lanes.dpbusd(*case) for case in sums]


def test_counts_are_those_of_the_programs():
    programs = [[steps(layout, isa)] for layout in lanes.LAYOUTS for isa in lanes.SETS]
    wanted = [lanes.counts(layout, isa, 32, 256) for layout in lanes.LAYOUTS for isa in lanes.SETS]
    assert call("lanes.js", "tally", *programs) == wanted
    assert wanted[0]["across"] == 48 and wanted[2]["across"] == 0


def test_a_lane_is_told_by_its_row_or_by_its_columns():
    multiply = next(step for step in steps("rows", "AVX2") if step["operation"] == "maddubs")
    load = next(step for step in steps("rows", "AVX2") if step["operation"] == "half")
    add = [step for step in steps("rows", "AVX2") if step["kind"] == "across"]
    asked = [
        ["rows", multiply, 3], ["tiles", multiply, 3], ["rows", load, 1], ["rows", load, 5], ["rows", add[1], 0],
        ["rows", add[5], 0],
    ]  # fmt: skip
    told = call("lanes.js", "laneLabel", *asked)
    assert told == ["12–15", "row 3", "4–7, 20–23", "unused", "8 columns", "all 32"]


def test_the_arithmetic_in_words():
    u, s, tens = [1, 2, 3, 4] * 8, [5, -6, 7, 8] * 8, [10] * 8
    wanted = [
        ({"operation": "maddubs", "reads": ["codes", "inputs"]}, [u, s], lanes.maddubs(u, s), 1),
        ({"operation": "dpbusd", "reads": ["sum", "codes", "inputs"]}, [tens, u, s], lanes.dpbusd(tens, u, s), 7),
        ({"operation": "whole", "reads": []}, [], u, 0),
    ]
    assert call("lanes.js", "equation", *map(list, wanted)) == [
        "1·5 + 2·(−6) = −7 and 3·7 + 4·8 = 53", "10 + 1·5 + 2·(−6) + 3·7 + 4·8 = 56", "",
    ]  # fmt: skip


def test_quads_are_the_columns_in_hand():
    found = [(step["operation"], step["quad"]) for step in steps("tiles", "AVX2")]
    assert [quad for operation, quad in found if operation == "maddubs"] == list(range(8))
    assert [step["at"] // 4 for step in steps("tiles", "VNNI") if step["operation"] == "four inputs"] == list(range(8))
    assert dict(found)["store"] == -1


def test_the_widget_is_small_and_shows_real_weights(fixture):
    widget = lane_view(fixture)
    m = block_of(fixture)
    assert max(map(abs, m.inputs)) == 127 and widget.memory["inputs"] == m.inputs
    assert widget.programs["rows AVX2"][widget.first][0] == "vpmaddubsw"
    assert len(json.dumps([widget.programs, widget.memory])) < 60_000
    y = lanes.multiply(m, "tiles", "AVX2")
    assert y == pytest.approx((fixture.W[:8, :32] @ fixture.X[0, :32]).tolist(), abs=0.3 * max(map(abs, y)))


def test_a_block_that_is_not_there_is_named(fixture):
    with pytest.raises(QlabError, match="no block of 8 × 32 at row 0, column 16"):
        block_of(fixture, 0, 16)
