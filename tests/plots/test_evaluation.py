"""Figures of evaluations."""

import numpy as np
import pytest

from qlab.errors import QlabError
from qlab.plots import compare_bars, paired_errors, perplexity_protocols, rate_distortion

ROWS = [
    {"name": "int4", "bits_per_weight": 4.0, "rel_mse": 0.01, "kl_mean": 0.2, "perplexity": 20.0, "ppl_ratio": 1.3},
    {"name": "int3", "bits_per_weight": 3.0, "rel_mse": 0.05, "kl_mean": 1.4, "perplexity": 80.0, "ppl_ratio": 5.8},
]
WITH_ERRORS = [{**row, "perplexity_se": 0.5, "ppl_ratio_se": 0.01} for row in ROWS]


def test_bars_keep_the_order_and_write_the_value():
    fig = compare_bars(ROWS, "kl_mean")
    assert list(fig.data[0].y) == ["int4", "int3"]
    assert list(fig.data[0].text) == [" 0.2 ", " 1.4 "]
    assert fig.layout.yaxis.autorange == "reversed"
    assert fig.layout.xaxis.title.text == "mean KL to the reference<br>(nats per token)"


def test_bars_show_a_95_percent_interval_where_it_is_known():
    assert list(compare_bars(WITH_ERRORS).data[0].error_x.array) == [0.98, 0.98]
    assert not compare_bars(ROWS).data[0].error_x.visible


def test_missing_column_is_named():
    with pytest.raises(QlabError, match="row 'int4' has no 'kl_p999'"):
        compare_bars(ROWS, "kl_p999")


def test_gaussian_bound_is_a_quarter_per_bit():
    bound = rate_distortion(ROWS).data[-1]
    assert bound.name == "Gaussian bound"
    assert list(bound.x) == [3, 4]
    assert list(bound.y) == [0.01562, 0.003906]  # 1/64 and 1/256 at 4 digits


def test_snr_is_the_same_figure_as_relative_error():
    rows = [{**row, "snr_db": -10 * np.log10(row["rel_mse"])} for row in ROWS]
    assert rate_distortion(rows, "snr_db").data[0].y == rate_distortion(ROWS).data[0].y


def test_kl_has_only_the_slope_through_its_first_point():
    guide = rate_distortion(ROWS, "kl_mean").data[-1]
    assert guide.name == "6.02 dB per bit"
    assert list(guide.y) == [1.4, 0.35]


def test_families_are_joined_from_low_to_high_rate():
    rows = [*ROWS, {**ROWS[0], "name": "nf4", "family": "codebook"}]
    fig = rate_distortion(rows)
    assert [trace.name for trace in fig.data] == ["measured", "codebook", "Gaussian bound"]
    assert list(fig.data[0].x) == [3, 4]
    assert fig.data[0].marker.symbol != fig.data[1].marker.symbol


def test_protocols_show_intervals():
    fig = perplexity_protocols(WITH_ERRORS)
    assert list(fig.data[0].x) == [20, 80]
    assert list(fig.data[0].error_x.array) == [0.98, 0.98]


def test_paired_errors_mark_the_equal_model():
    fig = paired_errors(WITH_ERRORS)
    assert len(fig.data) == 1
    assert fig.layout.shapes[0].x0 == 1
    assert list(fig.data[0].error_x.array) == [0.0196, 0.0196]


def test_unpaired_intervals_lie_behind():
    fig = paired_errors([{**row, "unpaired_se": 0.1} for row in WITH_ERRORS])
    assert [trace.name for trace in fig.data] == ["unpaired", "paired"]
    assert list(fig.data[0].error_x.array) == [0.196, 0.196]
