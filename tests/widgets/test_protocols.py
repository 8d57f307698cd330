"""The protocols widget: its JavaScript is its Python, and its Python is qlab.metrics."""

import json
import math
import random

import pytest
import torch

from qlab.errors import QlabError
from qlab.metrics import WindowMean
from qlab.records import load_record
from qlab.widgets.protocols import SEPARATED, cluster_mean, compare_protocols, gap
from tests.widgets.node import call

ULPS = 1e-9  # sums of at most 50 doubles of one size, in another order or with another hypot


def clusters(seed, count=12):
    """Loss sums of two models over `count` clusters, and the tokens in each."""
    r = random.Random(seed)
    sizes = [r.randint(100, 512) for _ in range(count)]
    a = [m * r.uniform(2, 4) for m in sizes]
    return a, [y + m * r.gauss(0.05, 0.02) for y, m in zip(a, sizes, strict=True)], sizes


@pytest.mark.parametrize("seed", range(3))
def test_equal_clusters_give_the_standard_error_of_qlab_evaluate(seed):
    losses = torch.rand(9, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    running = WindowMean()
    for window in losses:
        running.add(window)
    mean, se = cluster_mean(losses.sum(1).tolist(), [40] * 9)
    assert mean == pytest.approx(running.mean, rel=ULPS)
    assert se == pytest.approx(running.se, rel=ULPS)


def test_hand_computed_clusters():
    # 2 clusters of 1 and 3 tokens: mean (1 + 7)/4 = 2, residual sums 1 - 2 = -1 and 7 - 6 = 1, SE² = 2/1 · 2/16
    assert cluster_mean([1.0, 7.0], [1, 3]) == (2.0, 0.5)


def test_one_cluster_has_no_error():
    assert math.isnan(cluster_mean([3.0], [2])[1])


def test_a_model_is_not_separated_from_itself():
    a, _, sizes = clusters(0)
    assert gap(a, a, sizes, paired=True) == gap(a, a, sizes, paired=False) == 0


def test_pairing_separates_what_shared_difficulty_hides():
    a, b, sizes = clusters(1, count=30)
    assert gap(a, b, sizes, paired=False) < SEPARATED < gap(a, b, sizes, paired=True)


def test_javascript_means_equal_python():
    cases = [clusters(seed) for seed in range(20)]
    got = call("protocols.js", "clusterMean", *([a, sizes] for a, _, sizes in cases))
    for (a, _, sizes), js in zip(cases, got, strict=True):
        assert (js["mean"], js["se"]) == pytest.approx(cluster_mean(a, sizes), rel=ULPS)


@pytest.mark.parametrize("paired", [True, False])
def test_javascript_gaps_equal_python(paired):
    cases = [clusters(seed) for seed in range(20)]
    got = call("protocols.js", "gap", *([a, b, sizes, paired] for a, b, sizes in cases))
    assert got == pytest.approx([gap(a, b, sizes, paired) for a, b, sizes in cases], rel=ULPS)


def record(models=("a", "b"), chunks=3):
    """A small record: 2 clusters a chunk under "512", 1 under "2048"; model i is worse by 0.1·i a token."""
    r = random.Random(7)
    tokens = {"2048": [20] * chunks, "512": [10] * (2 * chunks)}
    hard = {key: [r.uniform(20, 40) for _ in sizes] for key, sizes in tokens.items()}
    rows = [
        {
            "name": name,
            "bits_per_weight": 4.0,
            "nll": {k: [y + 0.1 * i * m + r.random() for y, m in zip(hard[k], tokens[k], strict=True)] for k in tokens},
        }
        for i, name in enumerate(models)
    ]
    return {
        "models": rows,
        "tokens": tokens,
        "protocols": {k: f"windows {k}" for k in tokens},
        "text": {"tokens": 20 * chunks},
    }


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("protocol", ["512", "2048"])
def test_the_widget_draws_what_python_computes(protocol, paired):
    widget = compare_protocols(record(("a", "b", "c")))
    data = {k: getattr(widget, k) for k in ("names", "sizes", "sums", "chunks")}
    (shown,) = call("protocols.js", "measure", [data, {"protocol": protocol, "chunks": 2, "paired": paired}])
    count = {"512": 4, "2048": 2}[protocol]
    sizes, rows = widget.sizes[protocol][:count], [row[:count] for row in widget.sums[protocol]]
    assert (shown["clusters"], shown["tokens"]) == (count, sum(sizes))
    for row, sums in zip(shown["rows"], rows, strict=True):
        shift = [y - y0 for y, y0 in zip(sums, rows[0], strict=True)]
        mean, se = cluster_mean(sums, sizes)
        assert row["ppl"] == pytest.approx(math.exp(mean), rel=ULPS)
        assert row["se"] == pytest.approx(cluster_mean(shift, sizes)[1] if paired else se, rel=ULPS)
    assert [(p["i"], p["j"]) for p in shown["pairs"]] == [(0, 1), (0, 2), (1, 2)]
    assert [p["gap"] for p in shown["pairs"]] == pytest.approx(
        [gap(rows[p["i"]], rows[p["j"]], sizes, paired) for p in shown["pairs"]], rel=ULPS
    )


def test_models_are_listed_best_first():
    assert compare_protocols(record(("good", "bad"))).names == ["good", "bad"]
    assert compare_protocols(record(("a", "b", "c")), ["c", "a"]).names == ["a", "c"]


def test_an_unknown_model_is_named():
    with pytest.raises(QlabError, match=r"no model 'z' in the record: it has a, b"):
        compare_protocols(record(), ["a", "z"])


def test_ticks_are_round_and_few():
    for lo, hi in [(13.2, 27.9), (15, 90), (9.9, 11.2)]:
        (found,) = call("protocols.js", "ticks", [lo, hi])
        assert 1 <= len(found) <= 8
        assert all(lo <= t <= hi for t in found)


def test_the_committed_record_makes_a_small_widget():
    widget = compare_protocols(load_record("protocols"))
    traits = {name: getattr(widget, name) for name in widget.keys if name in widget.trait_names()}
    frames = {k: v for k, v in traits.items() if k in ("names", "bits", "protocols", "sizes", "sums")}
    assert len(json.dumps(frames)) < 100_000
    assert widget.names[0] == "reference"
    assert all(len(sums) == len(widget.sizes[key]) for key in widget.sizes for sums in widget.sums[key])
