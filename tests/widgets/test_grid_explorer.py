"""The grid explorer: what it draws is what qlab computes, and it takes only what it can draw."""

import json
import math
from dataclasses import replace

import pytest
import torch

from qlab import QTensor, QuantSpec, load_fixture
from qlab.errors import QlabError
from qlab.qtensor import encode
from qlab.ranges import minmax
from qlab.widgets.grid_explorer import grid_explorer
from tests.widgets.node import call

ULPS = 1e-12  # sums of some thousand squares in another order, relative
SETTINGS = [(bits, size, rule) for bits in (2, 4, 8) for size in (1536, 128, 32) for rule in ("asym", "sym")]


def python(row, at, value, bits, size, rule):
    """Scales, codes of the outlier's neighbours, and errors of all weights but the outlier, by qlab in float64."""
    W = torch.tensor([row], dtype=torch.float64)
    W[0, at] = value
    spec = replace(QuantSpec.parse(f"int{bits}-row-{rule}"), group_size=min(size, len(row)))
    params = minmax(W, spec)
    codes = encode(W, spec, params.scale, params.zero)
    errors = (QTensor(codes, params.scale, spec, params.zero).dequantize(torch.float64) - W)[0]
    index = torch.arange(len(row))
    other = index != at
    used = codes[0, other & (index // size == at // size)].unique().tolist()
    noise, signal = errors[other].square().mean().item(), W[0, other].square().mean().item()
    return params.scale[0].tolist(), used, errors.tolist(), noise, signal, spec.bits_per_weight((1, len(row)))


def check(cases):
    for case, js in zip(cases, call("grid_explorer.js", "measure", *map(list, cases)), strict=True):
        scales, used, errors, noise, signal, rate = python(*case)
        assert (js["scales"], js["used"], js["errors"]) == (scales, used, errors)
        assert js["rms"] == pytest.approx(math.sqrt(noise), rel=ULPS)
        assert js["snr"] == pytest.approx(10 * math.log10(signal / noise), rel=ULPS)
        assert js["rate"] == pytest.approx(rate, rel=ULPS)


def test_a_real_row_with_its_outlier_dragged():
    widget = grid_explorer(load_fixture("down_proj.11").W[549])
    check([(widget.weights, widget.at, value, *s) for value in (0.4, 2.5, -1.0) for s in SETTINGS])


@pytest.mark.parametrize("seed", range(3))
def test_random_rows_with_ragged_tails(seed):
    r = torch.Generator().manual_seed(seed)
    row = torch.randn(1536 - 37 * (seed + 1), generator=r, dtype=torch.float64).tolist()
    check([(row, at, value, *s) for at, value in ((0, 9.0), (len(row) - 1, -4.0)) for s in SETTINGS])


def test_its_aha_dragging_one_weight_costs_the_others():
    widget = grid_explorer(load_fixture("down_proj.11").W[549])
    settings = [(value, 4, size, "asym") for size in (1536, 128) for value in (2.5, 0.5)]
    far, near, far_grouped, near_grouped = call(
        "grid_explorer.js", "measure", *([widget.weights, widget.at, *s] for s in settings)
    )
    assert near["snr"] - far["snr"] > 3 * (near_grouped["snr"] - far_grouped["snr"]) > 0


def test_the_largest_weight_is_the_outlier_and_the_payload_is_small():
    widget = grid_explorer(load_fixture("down_proj.11").W[549], "row 549")
    assert abs(widget.weights[widget.at]) == max(map(abs, widget.weights))
    assert widget.name == "row 549"
    assert len(json.dumps(widget.weights)) < 20_000


@pytest.mark.parametrize("bad", [torch.zeros(8), torch.ones(2, 4), torch.tensor([1.0]), torch.tensor([1.0, math.nan])])
def test_a_row_that_cannot_be_drawn_is_refused(bad):
    with pytest.raises(QlabError, match="here has shape .*finite weights"):
        grid_explorer(bad, "here")


def test_other_rules_are_refused():
    with pytest.raises(QlabError, match="not 'awq'"):
        grid_explorer(torch.randn(8), rule="awq")
