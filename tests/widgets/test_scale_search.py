"""The widget of lesson 09: its candidates are llama.cpp's search, its arithmetic is Python's, its words are true."""

import json

import pytest
import torch

from qlab import load_fixture
from qlab.errors import QlabError
from qlab.grid import get_grid
from qlab.methods.ggml_search import search_affine
from qlab.step import drain
from qlab.widgets.scale_search import (
    GROUP,
    POINTS,
    REACH,
    SEARCH,
    TOP,
    candidates,
    error_of,
    plain_importance,
    scale_search,
)  # fmt: skip
from tests.widgets.node import call

FP64 = torch.finfo(torch.float64).eps


@pytest.fixture(scope="module")
def layer():
    return load_fixture("down_proj.11")


@pytest.fixture(scope="module")
def widget(layer):
    return scale_search(layer)


@pytest.fixture(scope="module")
def group(widget):
    return torch.tensor(widget.weights).double(), torch.tensor(widget.importance).double()


def test_the_group_is_the_layers(layer, widget):
    first = int(widget.layer.split("weights ")[1].split()[0])
    assert torch.allclose(torch.tensor(widget.weights), layer.W[0, first : first + GROUP], rtol=5e-4, atol=0)
    own = plain_importance(torch.tensor(widget.weights)[:, None])[:, 0]
    assert torch.allclose(torch.tensor(widget.importance), own, rtol=5e-4, atol=0)


def test_the_last_candidate_is_what_the_method_keeps(widget, group):
    x, w = group
    found = drain(search_affine(x[:, None], w[:, None], TOP, *SEARCH))
    assert widget.candidates[-1][2:] == pytest.approx([float(found.scale), float(found.minimum)], rel=1e-5)
    assert len(widget.candidates) == SEARCH[2] + 2
    assert error_of(x, w, *widget.candidates[-1][2:]) == pytest.approx(widget.candidates[-1][1], rel=1e-3)


def test_the_first_candidate_is_min_max(widget, group):
    x, _ = group
    lo, hi = min(float(x.min()), 0.0), float(x.max())
    assert widget.candidates[0][2:] == pytest.approx([(hi - lo) / TOP, lo], rel=1e-5)
    assert widget.candidates[0][0] == widget.candidates[0][1]
    assert widget.base == widget.candidates[0][2:]


def test_what_the_lesson_says(widget):
    best = [b for _, b, _, _ in widget.candidates]
    assert best == sorted(best, reverse=True)
    assert best[-1] < 0.6 * best[0]  # this group gains much
    assert len(set(best)) > 5  # step after step
    assert max(e for e, *_ in widget.candidates) > best[0]  # and some candidates are worse than min-max
    assert all(abs(s / widget.base[0] - 1) < REACH and abs(m / widget.base[1] - 1) < REACH
               for *_, s, m in widget.candidates)  # fmt: skip


@pytest.mark.parametrize(("i", "j"), [(0, 0), (20, 20), (3, 31), (40, 5)])
def test_the_map_is_the_error_that_the_sliders_give(widget, i, j):
    factor = [1 - REACH + 2 * REACH * k / POINTS for k in range(POINTS + 1)]
    scale, minimum = widget.base[0] * factor[j], widget.base[1] * factor[i]
    (now,) = call("scale_search.js", "fit", [widget.weights, widget.importance, scale, minimum])
    # the map is rounded to three digits, which is up to 0.5 % of a number that starts with 1
    assert now["error"] / widget.candidates[0][0] == pytest.approx(widget.surface[i][j], rel=5.1e-3)


def test_javascript_rounds_as_the_grid_does():
    g = torch.Generator().manual_seed(0)
    cases = []
    for spread in (0.01, 1.0, 50.0):
        x = torch.randn(GROUP, generator=g, dtype=torch.float64) * spread
        cases.append([x.tolist(), torch.rand(GROUP, generator=g).tolist(), spread / 4, -2 * spread])
    cases.append([[0.5, 1.5, 2.5, -9.0, 99.0], [1.0] * 5, 1.0, 0.0])  # halves, and beyond either end
    for (x, w, scale, minimum), got in zip(cases, call("scale_search.js", "fit", *cases), strict=True):
        x, w = torch.tensor(x, dtype=torch.float64), torch.tensor(w, dtype=torch.float64)
        codes = get_grid("int4").encode((x - minimum) / scale)
        assert got["codes"] == codes.tolist()
        assert got["values"] == [scale * c + minimum for c in codes.tolist()]
        error = error_of(x, w, scale, minimum)
        assert got["error"] == pytest.approx(error, rel=64 * FP64 * len(x))


def test_the_words():
    said = {"scale": 1.0, "minimum": 1.0, "error": 4, "start": 4, "least": 2}
    other = {"scale": 0.9, "minimum": 1.1}
    texts = call("scale_search.js", "describe", [said], [said | other | {"error": 2}],
                 [said | other | {"error": 8}], [said | other | {"error": 3}])  # fmt: skip
    assert texts == [
        "Scale 1.000 × and minimum 1.000 × min-max's: 100 % of its weighted error; this is min-max's.",
        "Scale 0.900 × and minimum 1.100 × min-max's: 50 % of its weighted error; as good as llama.cpp's best.",
        "Scale 0.900 × and minimum 1.100 × min-max's: 200 % of its weighted error; worse than min-max.",
        "Scale 0.900 × and minimum 1.100 × min-max's: 75 % of its weighted error; llama.cpp's best has 50 %.",
    ]


def test_the_payload_is_small(widget):
    names = ("layer", "weights", "importance", "base", "candidates", "reach", "surface")
    assert len(json.dumps({name: widget.trait_values()[name] for name in names})) < 25_000


def test_groups_that_cannot_be_shown_are_refused(layer):
    with pytest.raises(QlabError, match="has 48 whole groups of 32"):
        scale_search(layer, 48)
    zero = type(layer)(**{**layer.__dict__, "W": torch.zeros_like(layer.W)})
    with pytest.raises(QlabError, match="no weight on either side of zero"):
        scale_search(zero, 0)


def test_candidates_of_random_groups_never_get_worse():
    g = torch.Generator().manual_seed(1)
    for _ in range(5):
        x = torch.randn(GROUP, generator=g, dtype=torch.float64)
        best = torch.tensor([b for _, b, _, _ in candidates(x, x.abs() + 1)], dtype=torch.float64)
        assert (best[1:] <= best[:-1] * (1 + 64 * FP64)).all()  # min-max's is added up in another order
