"""The widget of lesson 06: its errors are those of the library, and its words are true."""

import json

import pytest
import torch

from qlab import QuantSpec, load_fixture, quantize
from qlab.errors import QlabError
from qlab.widgets.salient_picker import HOWS, RULES, protected, ranked, salient_picker
from tests.widgets.node import call

SPEC = QuantSpec.parse("int3-g128-asym")


@pytest.fixture(scope="module")
def layer():
    return load_fixture("q_proj.11")


@pytest.fixture(scope="module")
def widget(layer):
    return salient_picker(layer, most=6)


def test_kept_columns_are_exact_and_the_others_as_rounded(layer):
    W, chosen = layer.W.double(), torch.tensor([3, 200])
    W_hat, plain = protected(W, SPEC, chosen, None), quantize(W, SPEC).dequantize(torch.float64)
    others = torch.ones(576, dtype=torch.bool)
    others[chosen] = False
    assert torch.equal(W_hat[:, chosen], W[:, chosen]) and torch.equal(W_hat[:, others], plain[:, others])


def test_scaled_columns_lie_on_a_finer_grid(layer):
    W, chosen = layer.W.double(), torch.tensor([64])
    errors = [(W - protected(W, SPEC, chosen, s))[:, 64].square().mean() for s in (1.0, 2.0, 4.0)]
    assert errors[0] > errors[1] > errors[2]
    assert torch.equal(protected(W, SPEC, chosen, 1.0), quantize(W, SPEC).dequantize(torch.float64))


def test_the_rules_rank_by_what_they_say(layer):
    W, loud = layer.W.double(), layer.mean_abs.double()
    assert ranked(W, loud, "activation")[0] == loud.argmax()
    assert ranked(W, loud, "weight")[0] == W.square().sum(0).argmax()
    assert sorted(ranked(W, loud, "random").tolist()) == list(range(576))


def test_the_errors_are_shares_of_plain_roundings(layer, widget):
    W, H = layer.W.double(), layer.gram.double()
    plain = quantize(W, SPEC).error(W, H).mse
    for how, s in HOWS.items():
        for rule in RULES:
            errors = widget.errors[how][rule]
            assert errors[0] == 1 and len(errors) == 7
            E = W - protected(W, SPEC, torch.tensor(widget.orders[rule][:4]), s)
            assert errors[4] == pytest.approx(float(((E @ H) * E).sum() / W.numel()) / plain, rel=1e-3)


def test_what_the_lesson_says(widget):
    kept = widget.errors["kept"]
    assert kept["activation"][6] < 0.3 and min(kept["weight"] + kept["random"]) > 0.98


def test_the_words():
    data = {"errors": {"kept": {"weight": [1, 0.999]}}, "orders": {"weight": [7]}, "activation": [0.0] * 50}
    state = {"rule": "weight", "how": "kept", "count": 1}
    assert call("salient_picker.js", "describe", [data, state]) == [
        "1 of 50 channels (2 %) with the largest weights (7), kept in 16 bits: nothing is gained."
    ]
    assert "error to beat" in call("salient_picker.js", "describe", [data, state | {"count": 0}])[0]


def test_names_do_not_cover_each_other():
    (places,) = call("salient_picker.js", "apart", [[["a", 10], ["b", 90], ["c", 12]]])
    assert places == [["a", 10], ["c", 24], ["b", 90]]


def test_the_payload_is_small(widget):
    names = ("layer", "spec", "activation", "weight", "orders", "errors")
    assert len(json.dumps({name: widget.trait_values()[name] for name in names})) < 20_000


def test_a_fixture_without_a_gram_matrix_is_refused():
    with pytest.raises(QlabError, match="no Gram matrix"):
        salient_picker(load_fixture("down_proj.11"))
