"""Two ways from codes to float16: both exact, with the instructions that lesson 15 counts."""

import random

import numpy as np
import pytest

from qlab import halves


def test_floats_are_numpys():
    every = np.arange(1 << 16, dtype=np.uint16)
    ours = np.array([halves.half(int(bits)) for bits in every])
    assert np.array_equal(ours, every.view(np.float16).astype(np.float64), equal_nan=True)


@pytest.mark.parametrize("x", [0.1, -3.3, 65519, 65520, -1e9, 2**-24, 2**-25, 2**-25 * 1.01, 6.1e-5, 1032.5])
def test_rounding_is_numpys(x):
    with np.errstate(over="ignore"):
        assert halves.to_half(x) == int(np.float16(x).view(np.uint16))


@pytest.mark.parametrize("way", halves.WAYS)
def test_weights_are_scale_times_code_less_eight(way):
    draw = random.Random(0)
    for _ in range(100):
        codes, scale = [draw.randrange(16) for _ in range(8)], float(np.float16(draw.uniform(1e-4, 2)))
        wanted = [float(np.float16(scale * (code - 8))) for code in codes]
        assert halves.weights(way, halves.pack(codes), scale) == wanted


def test_the_counts_that_the_lesson_names():
    steps = {way: halves.program(way) for way in halves.WAYS}
    assert [len(steps[way]) for way in halves.WAYS] == [13, 39]
    assert sum(step.operation == "convert" for step in steps["plain"]) == 8
    assert not any(step.operation == "convert" for step in steps["magic"])
