"""The widget of lesson 07: its curves are the library's rounding, and the lesson's words about them hold."""

import json

import pytest
import torch

from qlab import QuantSpec, load_fixture, quantize
from qlab.errors import QlabError
from qlab.passes.awq import relative_weight, rounded, scale_of
from qlab.widgets.alpha_curve import POINTS, RULES, alpha_curve
from tests.widgets.node import call

SPEC = QuantSpec.parse("int3-g64-sym")


@pytest.fixture(scope="module")
def layer():
    return load_fixture("q_proj.11")


@pytest.fixture(scope="module")
def widget(layer):
    return alpha_curve(layer)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("k", [0, 7, 20])
def test_the_loss_is_that_of_the_pass_own_rounding(layer, widget, rule, k):
    W, H = layer.W.double(), layer.gram.double()
    weights = relative_weight([(W, SPEC)]) if rule == "autoawq" else None
    losses = []
    for scale in (scale_of(layer.mean_abs.double(), k / POINTS, weights), None):
        E = W - rounded(W, SPEC, scale).double()
        losses.append(float(((E @ H) * E).sum()))
    assert widget.runs[rule]["loss"][k] == pytest.approx(losses[0] / losses[1], rel=2e-3)


def test_without_scaling_the_papers_rule_is_plain_rounding_and_autoawqs_is_not(widget):
    for key in ("loss", "loud", "rest", "stretch"):
        assert widget.runs["paper"][key][0] == 1
    assert widget.runs["autoawq"]["loss"][0] != 1


def test_the_group_shown_holds_the_loudest_channel(layer, widget):
    assert int(layer.mean_abs.argmax()) in widget.loud and set(widget.loud) <= set(widget.channels)
    first = widget.channels[0]
    step = quantize(layer.W.double(), SPEC).scale.double()[0, first // 64]
    expected = layer.W.double()[0, first : first + 64] / step
    assert torch.allclose(torch.tensor(widget.runs["paper"]["steps"][0]).double(), expected, atol=0.006)


def test_what_the_lesson_says(widget):
    run = widget.runs["paper"]
    least = min(range(POINTS + 1), key=lambda k: run["loss"][k])
    assert 0 < least < POINTS and run["loss"][-1] > 1  # a valley, and too far is worse than nothing
    assert run["loud"][least] < 0.5 < 1 < run["rest"][least]
    assert run["stretch"] == sorted(run["stretch"])


def test_the_words():
    run = {"loss": [1, 0.5], "loud": [1, 0.3], "rest": [1, 1.2], "stretch": [1, 1.1], "steps": [[0.1, 2], [0.4, 3]]}
    assert call("alpha_curve.js", "best", [[1, 0.5, 0.5, 2]]) == [1]
    assert call("alpha_curve.js", "vanished", [[0.5, -0.2, 0.6]]) == [2]
    assert call("alpha_curve.js", "describe", [run, 1, 1]) == [
        "α 1: output error 0.5× rounding's. Loud channels 0.3×, all others 1.2×; steps 1.1× as wide, "
        "1 of 2 weights of the group are 0. This is the best of the grid."
    ]


def test_the_payload_is_small(widget):
    names = ("layer", "spec", "channels", "loud", "levels", "runs")
    assert len(json.dumps({name: widget.trait_values()[name] for name in names})) < 25_000


def test_a_fixture_without_a_gram_matrix_is_refused():
    with pytest.raises(QlabError, match="no Gram matrix"):
        alpha_curve(load_fixture("down_proj.11"))
