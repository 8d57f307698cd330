"""The widget of lesson 15: its registers are Python's on every word, and its words are true."""

import json
import random

import numpy as np
import pytest

from qlab import halves, load_fixture
from qlab.errors import QlabError
from qlab.widgets.magic_word import listed, magic_word
from tests.widgets.node import call

KEYS = ("name", "operation", "out", "reads", "constants", "codes")


@pytest.fixture(scope="module")
def fixture():
    return load_fixture("down_proj.11")


def steps(way):
    return [dict(zip(KEYS, step, strict=True)) for step in listed(way)]


def test_every_half_is_pythons():
    finite = [bits for bits in range(1 << 16) if bits >> 10 & 31 != 31]
    assert call("halves.js", "half", *([bits] for bits in finite)) == [halves.half(bits) for bits in finite]


def test_rounding_is_pythons():
    draw = random.Random(1)
    given = [draw.uniform(-2, 2) * 2.0 ** draw.randrange(-26, 16) for _ in range(2000)]
    given += [65504, 65519.9, 65520, -7e4, 2**-25, 3 * 2**-25, 2**-14, 2047.5, 2048.5, 2049.5, 0.0, 1032]
    assert call("halves.js", "toHalf", *([x] for x in given)) == [halves.to_half(x) for x in given]


@pytest.mark.parametrize("way", halves.WAYS)
def test_every_register_is_pythons_after_every_instruction(way):
    draw = random.Random(2)
    cases = [(draw.randrange(1 << 32), float(np.float16(draw.uniform(1e-4, 2)))) for _ in range(200)]
    cases += [(0, 1.0), (0xFFFFFFFF, 0.01), (0x80000000, 1e-7)]
    theirs = call("halves.js", "executeHalves", *([steps(way), word, scale] for word, scale in cases))
    assert theirs == [halves.execute(halves.program(way), word, scale) for word, scale in cases]


def test_the_running_count():
    programs = {way: steps(way) for way in halves.WAYS}
    asked = [["magic", 0], ["magic", 2], ["magic", 12], ["plain", 38]]
    told = call("magic_word.js", "progress", *([programs[way], at] for way, at in asked))
    assert told == [[1, 0], [3, 2], [13, 8], [39, 8]]


def test_the_arithmetic_in_words():
    lop, fma = steps("magic")[:2]
    later = steps("magic")[3]
    asked = [
        [lop, 0x50007, 0x64056407],
        [fma, 0x64056407, halves.pair(halves.to_half(-1), halves.to_half(-3))],
        [later, 0x70, halves.pair(halves.to_half(1024 + 112), halves.to_half(1024))],
    ]
    assert call("magic_word.js", "sentence", *asked) == [
        "code 0: 1031 = 1024 + 7; code 4: 1029 = 1024 + 5",
        "code 0: 1031 − 1032 = −1; code 4: 1029 − 1032 = −3",
        "code 1: 1136 = 1024 + 16 · 7; code 5: 1024 = 1024 + 16 · 0",
    ]


def test_instructions_as_written():
    assert call("magic_word.js", "written", *([step] for step in steps("magic")[:3])) == [
        "LOP3 pair 0 = (word & 0x000f000f) | 0x64006400", "HFMA2 pair 0 = pair 0 × 1 − 1032",
        "HMUL2 pair 0 = pair 0 × scale",
    ]  # fmt: skip


def test_the_widget_is_small_and_shows_real_weights(fixture):
    widget = magic_word(fixture)
    assert len(json.dumps(widget.programs)) < 8_000
    told = halves.weights("magic", widget.word, widget.scale)
    # half a step, the highest code's missing half, and float16's rounding of the scale and of the product
    assert told == pytest.approx(fixture.W[0, :8].tolist(), abs=widget.scale * (0.5 + 2 * 8 * 2**-11) + 1e-6)


def test_a_word_that_is_not_there_is_named(fixture):
    with pytest.raises(QlabError, match="no word of eight columns at row 0, column 4"):
        magic_word(fixture, 0, 4)
