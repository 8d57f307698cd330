"""The outlier map: its errors are qlab's, its JavaScript picks the same channels and words the same numbers."""

import json
from itertools import pairwise

import pytest
import torch

from qlab import QuantSpec, load_fixture, quantize
from qlab.nn import fake_quantize
from qlab.widgets.outlier_map import HOWS, WHATS, largest, outlier_map, output_error, treated_output
from tests.widgets.node import call

X = torch.randn(8, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 1, 24)
W = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
NONE = largest(X.abs().amax(0), 0)


@pytest.fixture(scope="module")
def widget():
    return outlier_map(load_fixture("k_proj.11"), most=4)


@pytest.mark.parametrize("how", HOWS)
def test_with_no_channel_treated_it_is_plain_rounding(how):
    X_hat = fake_quantize(X, QuantSpec.parse("int4-token-sym-fp32"))
    W_hat = quantize(W, "int4-row-sym-fp32").dequantize()
    assert torch.equal(treated_output(X, W, NONE, "weights", how, 4), X @ W_hat.T)
    assert torch.equal(treated_output(X, W, NONE, "activations", how, 4), X_hat @ W.T)
    assert torch.equal(treated_output(X, W, NONE, "both", how, 4), X_hat @ W_hat.T)


@pytest.mark.parametrize("what", WHATS)
def test_kept_channels_add_their_exact_product(what):
    chosen = largest(X.abs().amax(0), 3)
    exact = X[:, chosen] @ W[:, chosen].T
    zeroed = treated_output(X, W, chosen, what, "zeroed", 4)
    assert torch.equal(treated_output(X, W, chosen, what, "kept", 4), exact + zeroed)


@pytest.mark.parametrize("what", WHATS)
def test_zeroed_is_rounding_without_those_channels(what):
    chosen = largest(X.abs().amax(0), 3)
    gone = torch.ones(24, dtype=torch.bool)
    gone[chosen] = False
    wanted = treated_output(X[:, gone], W[:, gone], NONE, what, "kept", 4)
    assert torch.equal(treated_output(X, W, chosen, what, "zeroed", 4), wanted)


def test_clipped_channels_keep_within_the_others():
    chosen = largest(X.abs().amax(0), 2)
    clipped = X.clone()
    limit = X[:, [c for c in range(24) if c not in chosen.tolist()]].abs().max()
    clipped[:, chosen] = clipped[:, chosen].clamp(-limit, limit)
    assert torch.equal(
        treated_output(X, W, chosen, "both", "clipped", 4), treated_output(clipped, W, NONE, "both", "kept", 4)
    )


def test_output_error_by_hand():
    assert output_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0])) == pytest.approx(1 / 25)


def test_a_channel_kept_never_hurts_much_on_the_real_layer(widget):
    for what in WHATS:
        kept, zeroed = widget.losses[what]["kept"], widget.losses[what]["zeroed"]
        assert kept[4] < kept[0] < zeroed[4]


def test_activations_lose_more_than_weights(widget):
    assert widget.losses["activations"]["kept"][0] > 5 * widget.losses["weights"]["kept"][0]


def test_payload_is_small(widget):
    state = {key: widget.trait_values()[key] for key in ("layer", "bits", "magnitudes", "losses")}
    assert len(json.dumps(state)) < 20_000


def test_javascript_picks_the_same_channels():
    cases = [torch.randn(30, generator=torch.Generator().manual_seed(s)).abs() for s in range(10)]
    cases.append(torch.tensor([1.0, 2.0, 2.0, 0.0]))
    got = call("outlier_map.js", "largest", *([m.tolist(), 3] for m in cases))
    assert got == [largest(m, 3).tolist() for m in cases]


def test_javascript_measures_what_remains():
    for seed in range(10):
        m = torch.rand(20 + seed, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        (got,) = call("outlier_map.js", "remaining", [m.tolist(), 2])
        rest = m.sort(descending=True).values[2]
        assert got == {"limit": rest.item(), "ratio": (rest / m.median()).item()}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0.2, 0.1, "2× less than with none treated"),
        (0.1, 0.35, "3.5× more than with none treated"),
        (0.1, 0.1, "the same as with none treated"),
    ],
)
def test_javascript_words_the_change(before, after, words):
    assert call("outlier_map.js", "change", [before, after]) == [words]


def test_labels_do_not_overlap():
    (places,) = call("outlier_map.js", "labelPlaces", [[["a", 300], ["b", 301], ["c", 329]], 330])
    at = [place for _, place in places]
    assert all(b - a >= 14 for a, b in pairwise(at))
    assert max(at) <= 330
