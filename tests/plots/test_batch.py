"""The figures of lesson 15."""

import json

import pytest

from qlab import gpus
from qlab.plots import batch_roofline, gain_over_batch, weight_instructions
from qlab.plots.batch import BATCHES, per_weight
from qlab.records import load_record

WEIGHT = gpus.bytes_per_weight(4, 128)
H100 = gpus.GPUS[2]


def test_marks_stay_under_the_roof_and_the_slider_has_a_frame_for_each_batch():
    fig = batch_roofline(H100, 8192, 8192, WEIGHT)
    assert [frame.name for frame in fig.frames] == [step.label for step in fig.layout.sliders[0].steps]
    assert [int(frame.name) for frame in fig.frames] == list(BATCHES)
    for frame in fig.frames:
        half, four = frame.data
        for mark in (half, four):
            assert mark.y[0] <= 1.01 * min(H100.flops, H100.bandwidth * mark.x[0]) / 1e12
        assert four.x[0] > half.x[0]
        ratio = float(frame.layout.annotations[0].text.split("<b>")[1].split(" ")[0])
        assert ratio == pytest.approx(four.y[0] / half.y[0], abs=0.03)
    assert len(json.dumps(fig.to_plotly_json(), default=str)) < 60_000


def test_a_line_for_each_card():
    fig = gain_over_batch(gpus.GPUS, 8192, 8192, WEIGHT)
    assert [line.name for line in fig.data] == [gpu.name for gpu in gpus.GPUS]
    assert all(line.y[0] == pytest.approx(3.88, abs=0.01) and line.y[-1] == 1 for line in fig.data)


def test_bars_add_up_to_all_instructions_of_the_loop():
    rows = load_record("kernel_steps")["rows"]
    fig = weight_instructions(rows[:4])
    for i, row in enumerate(rows[:4]):
        assert sum(per_weight(row).values()) == pytest.approx(row["total"] / row["weights"])
        assert sum(bar.x[i] for bar in fig.data) == pytest.approx(row["total"] / row["weights"], rel=5e-3)
