"""js/quant.js is qlab's arithmetic: bit for bit, in doubles, with scales that nothing rounded."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlab import QTensor, QuantSpec
from qlab.qtensor import encode
from qlab.ranges import extremes, fit
from tests.widgets.node import call

MIN_BITS = {"sym": 2, "asym": 1}  # one symmetric bit is a codebook (±½), which quant.js leaves to Python


def python(weights, bits, size, rule):
    """What quant.js promises, by qlab: codes, values, and (scale, zero) of each group."""
    W = torch.tensor([weights], dtype=torch.float64)
    spec = replace(QuantSpec.parse(f"int{bits}-row-{rule}"), group_size=min(size, len(weights)))
    params = fit(*extremes(W, spec), spec)
    codes = encode(W, spec, params.scale, params.zero)
    values = QTensor(codes, params.scale, spec, params.zero).dequantize(torch.float64)
    return codes[0].tolist(), values[0].tolist(), params.scale[0].tolist()


def assert_same(cases):
    """Cases are (weights, bits, size, rule); one start of node serves them all."""
    got = call("quant.js", "quantize", *([w, {"bits": b, "size": s, "rule": r}] for w, b, s, r in cases))
    for case, js in zip(cases, got, strict=True):
        codes, values, scales = python(*case)
        assert js["codes"] == codes, case
        assert js["values"] == values, case
        assert [g["scale"] for g in js["groups"]] == scales, case


def every_rule(weights, size):
    return [(weights, bits, size, rule) for rule, least in MIN_BITS.items() for bits in range(least, 9)]


def normal(count, seed, scale=1.0):
    return (torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).tolist()


def test_random_weights_at_every_width():
    cases = [case for seed in range(5) for case in every_rule(normal(200, seed, 10.0 ** (seed - 3)), 32)]
    assert_same(cases)


ADVERSARIAL = {
    "halves: every weight lies midway between two levels": [x + 0.5 for x in range(-8, 7)] + [-8.0, 7.0],
    "halves of an asymmetric group that starts at zero": [0.0, 0.5, 1.5, 2.5, 7.5, 15.0],
    "all zero": [0.0] * 6,
    "a zero group between others": [1.0, -2.0, 3.0, 0.0, 0.0, 0.0, 5.0, -6.0, 7.0],
    "negative only": [-1.0, -1.3, -0.2, -7.0],
    "positive only, far from zero": [1.0, 1.03, 1.1, 1.07],
    "one weight": [-0.3],
    "a ragged tail of one": [0.1, -0.4, 0.9, -100.0],
    "an outlier": [0.01, -0.02, 0.03, 50.0],
    "tiny": [3e-12, -1e-12, 2e-12],
}


@pytest.mark.parametrize("weights", ADVERSARIAL.values(), ids=list(ADVERSARIAL))
def test_adversarial_weights(weights):
    assert_same(every_rule(weights, 3) + every_rule(weights, len(weights)))


@settings(deadline=None, max_examples=10)
@given(st.data())
def test_whatever_hypothesis_finds(data):
    finite = st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)
    weights = st.lists(finite, min_size=1, max_size=40)
    assert_same([case for _ in range(5) for case in every_rule(data.draw(weights), data.draw(st.integers(1, 12)))])


def test_halves_go_to_the_even_integer():
    halves = [-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 2.4999, 2.5001]
    got = call("quant.js", "roundHalfEven", *([x] for x in halves))
    assert got == torch.tensor(halves).round().tolist()
    assert got != [math.floor(x + 0.5) for x in halves]  # the textbook's rule would differ
