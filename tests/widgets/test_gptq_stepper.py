"""The GPTQ stepper: its frames are GPTQ's own Steps, and the JavaScript moves the weights exactly as GPTQ does."""

import json
import math

import pytest
import torch

from qlab import QuantSpec, load_fixture, quantize
from qlab.errors import QlabError
from qlab.methods.gptq import hessian_factor
from qlab.stats import Stats
from qlab.widgets import gptq_stepper as stepper
from qlab.widgets.gptq_stepper import ORDERS, companions, losses, run
from tests.widgets.node import call

SPEC = QuantSpec.parse("int3-g8-asym")


@pytest.fixture(scope="module")
def problem():
    f = load_fixture("k_proj.11")
    chosen = companions(f.gram, 32)
    return f.W[:12, chosen].double(), f.gram[chosen][:, chosen].double()


@pytest.fixture(scope="module")
def runs(problem):
    return {order: run(*problem, SPEC, order) for order in ORDERS}


def quantized(W, H, order):
    stats = Stats(len(H), gram=False)
    stats.tokens, stats.gram = 1, H
    return quantize(W, SPEC, "gptq", stats=stats, act_order=order)


@pytest.mark.parametrize("order", ORDERS)
def test_javascript_arrives_at_gptqs_weights(problem, runs, order):
    W, H = problem
    weights = W.tolist()
    start, end = call("gptq_stepper.js", "weightsAfter", [weights, runs[order], 0], [weights, runs[order], 32])
    assert start == weights
    Q = quantized(W, H, order)
    # e and U keep four digits: each of 32 steps moves a weight by e·U, off by 2 · 5e-4 of it at most
    moved = torch.tensor(runs[order]["e"]).abs().T @ torch.tensor(runs[order]["U"]).abs()
    assert ((torch.tensor(end) - Q.dequantize(W.dtype)).abs() <= 1e-3 * moved + 1e-12).all()


@pytest.mark.parametrize("order", ORDERS)
def test_javascript_is_gptq_after_every_column(problem, runs, order):
    W, H = problem
    steps, columns, _ = stepper._steps(W, H, SPEC, order, 0.01)
    frames = call("gptq_stepper.js", "weightsAfter", *([W.tolist(), runs[order], k + 1] for k in range(32)))
    moved = torch.tensor(runs[order]["e"]).abs().T @ torch.tensor(runs[order]["U"]).abs()
    for k, (step, frame) in enumerate(zip(steps, frames, strict=True)):
        still_open = columns[k + 1 :]
        gap = (torch.tensor(frame) - step.data["W"]).abs()[:, still_open]
        assert (gap <= 1e-3 * moved[:, still_open] + 1e-12).all()


@pytest.mark.parametrize("order", ORDERS)
def test_the_curves_end_at_the_errors_of_the_quantized_layer(problem, runs, order):
    W, H = problem
    Q, R = quantized(W, H, order), quantize(W, SPEC)
    last = {key: values[-1] for key, values in runs[order].items() if isinstance(values[-1], float)}
    for name, tensor in (("", Q), ("rtn_", R)):
        assert last[f"{name}weight"] == pytest.approx(tensor.error(W).rel_mse, rel=1e-3)
        assert last[f"{name}output"] == pytest.approx(tensor.error(W, H).rel_mse, rel=1e-3)
    assert [runs[order][key][0] for key in ("weight", "output", "rtn_weight", "rtn_output")] == [0, 0, 0, 0]


@pytest.mark.parametrize("order", ORDERS)
def test_what_the_lesson_says_of_the_curves(runs, order):
    assert runs[order]["weight"][-1] > 1.5 * runs[order]["rtn_weight"][-1]
    assert runs[order]["output"][-1] < 0.5 * runs[order]["rtn_output"][-1]


def test_groups_are_neighbours_unless_act_order_sorts_them(runs):
    assert runs["none"]["group"] == runs["static"]["group"] == [i // 8 for i in range(32)]
    first = runs["desc"]["order"][:8]
    assert {runs["desc"]["group"][c] for c in first} == {0} and sorted(first) != list(range(8))
    assert runs["none"]["order"] == list(range(32))


def test_an_error_is_passed_on_as_the_row_of_u_says(problem, runs):
    _, H = problem
    (share,) = call("gptq_stepper.js", "passedOn", [runs["none"], 3])
    U = hessian_factor(H, 0.01)
    wanted = torch.where(torch.arange(32) > 3, -U[3] / U[3, 3], 0.0)
    # two numbers of four digits: 2 · 5e-4
    assert torch.allclose(torch.tensor(share, dtype=torch.float64), wanted, rtol=1e-3, atol=1e-12)
    (last,) = call("gptq_stepper.js", "passedOn", [runs["none"], 31])
    assert last == [0] * 32


def test_the_comparison_in_words():
    run_ = {"weight": [0, 0.4], "rtn_weight": [0, 0.2], "output": [0, 0.01], "rtn_output": [0, 0.04]}
    assert call("gptq_stepper.js", "compared", [run_, 1]) == [
        "Beside plain rounding: weights 2× the error, output 0.25×."
    ]


def test_companions_are_the_loudest_and_what_moves_with_it():
    H = torch.tensor([[1.0, 0.1, 0.9], [0.1, 1.0, 0.0], [0.9, 0.0, 4.0]])
    assert companions(H, 1).tolist() == [2]
    assert companions(H, 2).tolist() == [0, 2]


def test_losses_by_hand():
    W, H = torch.tensor([[1.0, 2.0]]).double(), torch.ones(2, 2).double()
    weight, output = losses(W, torch.tensor([[0.0, 3.0]]).double(), H)
    assert math.isclose(weight, 2 / 5) and output == 0  # the two errors cancel in the output


def test_payload_is_small():
    widget = stepper.gptq_stepper(load_fixture("q_proj.11"))
    names = ("layer", "spec", "channels", "inputs", "weights", "runs")
    assert len(json.dumps({name: widget.trait_values()[name] for name in names})) < 60_000


def test_a_fixture_without_a_gram_matrix_is_refused():
    with pytest.raises(QlabError, match=r"down_proj\.11 has no Gram matrix: use one that has"):
        stepper.gptq_stepper(load_fixture("down_proj.11"))
