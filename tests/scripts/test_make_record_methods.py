"""The record of methods: whole, and it bears out what calibration is claimed to do, over three draws of the text."""

import pytest

from qlab.records import load_record

ROWS = load_record("methods")["rows"]
THREE, FOUR = "int3-g128-asym", "int4-g128-asym"


def cells(road, spec):
    return [row for row in ROWS if (row["road"], row["spec"]) == (road, spec)]


def worst(road, spec, key):
    return max(row[key] for row in cells(road, spec))


def test_three_draws_of_every_road_on_twenty_thousand_tokens():
    assert load_record("methods")["text"]["tokens"] >= 20_000
    for spec in (THREE, FOUR):
        assert len(cells("rtn", spec)) == 1
        for road in ("gptq", "awq", "awq+gptq"):
            assert [row["seed"] for row in cells(road, spec)] == [0, 1, 2]


def test_at_three_bits():
    assert worst("gptq", THREE, "of_rtn") <= 0.65
    assert worst("awq", THREE, "of_rtn") <= 0.75
    for key in ("perplexity", "kl_mean"):
        for both, gptq, awq in zip(*(cells(road, THREE) for road in ("awq+gptq", "gptq", "awq")), strict=True):
            assert both[key] < min(gptq[key], awq[key])


@pytest.mark.parametrize("road", ["gptq", "awq", "awq+gptq"])
def test_at_four_bits_below_rounding_beyond_chance(road):
    assert min(row["paired_se"] for row in cells(road, FOUR)) > 2
    assert worst(road, FOUR, "kl_mean") < cells("rtn", FOUR)[0]["kl_mean"]


@pytest.mark.parametrize("spec", [THREE, FOUR])
def test_perplexity_and_kl_rank_the_roads_alike(spec):
    def rank(key):
        roads = {row["road"] for row in ROWS}
        return sorted(roads, key=lambda road: sum(row[key] for row in cells(road, spec)) / len(cells(road, spec)))

    assert rank("perplexity") == rank("kl_mean")
