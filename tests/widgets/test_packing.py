"""The widget of lesson 14: its words and operations are Python's, and what it tells is true."""

import json
import random

import pytest

from qlab import load_fixture, words
from qlab.errors import QlabError
from qlab.widgets.packing import STRADDLING, codes_of, packing_view
from tests.widgets.node import call

CASES = [(layout, bits) for layout in words.LAYOUTS for bits in range(1, 9)]


@pytest.fixture(scope="module")
def runs():
    draw = random.Random(14)
    return {bits: [draw.randrange(2**bits) for _ in range(words.RUN)] for bits in range(1, 9)}


@pytest.fixture(scope="module")
def fixture():
    return load_fixture("down_proj.11")


def test_words_are_pythons(runs):
    extreme = [[layout, bits, [2**bits - 1] * words.RUN] for layout, bits in CASES]
    asked = [[layout, bits, runs[bits]] for layout, bits in CASES] + extreme
    assert call("words.js", "packWords", *asked) == [words.pack(*case) for case in asked]


def test_operations_are_pythons_on_every_code(runs):
    packed = {(layout, bits): words.pack(layout, bits, runs[bits]) for layout, bits in CASES}
    asked = [[*case, packed[case], code] for case in CASES for code in range(words.RUN)]
    wanted = [[[step.text, step.result] for step in words.read(*case)] for case in asked]
    assert call("words.js", "readCode", *asked) == json.loads(json.dumps(wanted))  # tuples are lists there


def test_counts_are_pythons():
    cases = [list(case) for case in CASES]
    assert call("words.js", "operations", *cases) == [words.operations(*case) for case in CASES]
    assert call("words.js", "straddling", *cases) == [len(words.straddling(*case)) for case in CASES]


def test_every_bit_has_the_owner_that_python_says():
    for (layout, bits), found in zip(CASES, call("packing.js", "owners", *map(list, CASES)), strict=True):
        for code in range(words.RUN):
            for part, f in enumerate(words.fields(layout, bits, code)):
                mine = found[f.word][f.shift : f.shift + f.width]
                assert mine == [[code, part, f.bit + k] for k in range(f.width)]


def test_the_sentence():
    asked = [["stream", 3], ["stream", 4], ["planes", 7], ["planes", 8]]
    told = call("packing.js", "told", *asked)
    assert told[0].startswith("Stored: 12 bytes for 32 codes, in a stream; 2 codes straddle two words.")
    assert "no code straddles" in told[1] and "planes of 4 + 2 + 1 bits" in told[2] and "in one plane" in told[3]
    for (layout, bits), sentence in zip(asked, told, strict=True):
        assert f"{words.operations(layout, bits):.2f} operations a code" in sentence


def test_where_a_code_lies_in_words():
    asked = [["stream", 3, 10], ["stream", 4, 0], ["planes", 5, 9]]
    assert call("packing.js", "located", *asked) == [
        "Code 10: bits 30–31 of word 0, bit 0 of word 1.", "Code 0: bits 0–3 of word 0.",
        "Code 9: bits 16–19 of word 1, bit 18 of word 4.",
    ]  # fmt: skip


def test_the_widget_is_small_and_shows_real_weights(fixture):
    widget = packing_view(fixture)
    assert sorted(widget.codes) == [str(bits) for bits in range(1, 9)]
    assert len(json.dumps(widget.codes)) < 2_000
    eight, three = widget.codes["8"], widget.codes["3"]
    assert max(eight) in (255, 254) or min(eight) == 0  # the largest weight is at an end of the grid
    coarse = [(code - 4) / 3.5 for code in three]
    fine = [(code - 128) / 127.5 for code in eight]
    # both are the weight in units of the largest: half a step of either apart, a whole one where the coarse grid ends
    steps = [1 if code == 7 else 0.5 for code in three]
    assert all(abs(a - b) <= h / 3.5 + 0.5 / 127.5 + 1e-3 for a, b, h in zip(coarse, fine, steps, strict=True))
    assert widget.first == STRADDLING and STRADDLING in words.straddling("stream", widget.bits)


def test_a_run_that_is_not_there_is_named(fixture):
    with pytest.raises(QlabError, match="no run of 32 weights at row 0, column 16"):
        codes_of(fixture, 3, 0, 16)
