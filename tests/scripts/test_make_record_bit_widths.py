"""The record of widths: whole, recipes of one price, and one of its rows computed again."""

import importlib.util
from pathlib import Path

import pytest

import qlab
from qlab.records import load_record

SCRIPT = Path(__file__).parents[2] / "scripts/make_record_bit_widths.py"
spec = importlib.util.spec_from_file_location("make_record_bit_widths", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

RECORD = load_record("bit_widths")
ROWS = {row["name"]: row for row in RECORD["rows"]}
FOUR_DIGITS = 5e-4
"""Half a unit in the fourth digit."""


def test_every_cell_is_there():
    assert list(ROWS) == list(script.cells())


def test_bits_are_the_codes_and_a_scale_and_a_zero_for_64():
    for bits in script.WIDTHS:
        assert ROWS[f"{bits} bits, float"]["bits_per_weight"] == pytest.approx(bits + (16 + bits) / 64, rel=FOUR_DIGITS)


def test_recipes_have_one_price():
    assert {ROWS[name]["bits_per_weight"] for name in script.SPLITS} == {4.566}  # 4.25 + (16 + 4.25) / 64


def test_more_bits_lose_less():
    for inputs in script.INPUTS:
        losses = [ROWS[f"{bits} bits, {inputs}"]["kl_mean"] for bits in script.WIDTHS]
        assert losses == sorted(losses, reverse=True)


@pytest.mark.reference
def test_one_row_again():
    loaded, text = qlab.load("reference"), RECORD["text"]
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(text["name"]).text, text["tokens"])
    (again,) = script.rows(loaded, ids, ["attention 5, MLP 4"])
    for key in ("perplexity", "kl_mean", "bits_per_weight"):
        assert again[key] == pytest.approx(ROWS[again["name"]][key], rel=FOUR_DIGITS)
