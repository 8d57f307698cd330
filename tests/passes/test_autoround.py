"""AutoRound: what is learned is what rtn rounds to, the loss never rises, the same seed gives the same codes."""

import pytest
import torch

from qlab.errors import QlabError
from qlab.methods import quantize
from qlab.passes import get_pass
from qlab.plan import LinearPlan
from qlab.ranges import round_to_nearest
from qlab.recipes import Recipe
from qlab.run import quantized_copy
from qlab.step import drain
from tests.passes.tiny import CALIBRATION, block_of, tiny

SPECS = ("int4-g32-sym", "int4-g32-asym", "int3-g64-asym", "int2-g64-asym", "int4-g64-narrow", "int8-row-sym")


def block(spec: str, index: int = 0):
    return block_of(tiny(dtype=torch.float32), spec, index, float_path=True)


def loss(one, plans: dict[str, LinearPlan]) -> float:
    """Mean squared error of the block's output once rtn has rounded every linear by its plan."""
    weights = {
        name: quantize(m.weight, one.specs[name], "rtn", plan=plans.get(name, LinearPlan())).dequantize()
        for name, m in one.linears.items()
    }
    parts = [(one.forward(X, weights) - one.target(i)).square() for i, X in enumerate(one.inputs)]
    return float(torch.cat(parts).mean())


@pytest.mark.parametrize("spec", SPECS)
def test_rtn_makes_of_the_plan_exactly_what_was_learned(spec: str) -> None:
    one = block(spec)
    steps = list(get_pass("autoround", iters=8).steps(one))
    plan = drain(get_pass("autoround", iters=8).steps(one))
    plain, learned = loss(one, {}), loss(one, dict(plan.linears))
    assert learned == pytest.approx(steps[-1].error, rel=1e-5)  # rtn's weights give the loss that training saw
    assert learned <= plain * (1 + 1e-6)
    for chosen in plan.linears.values():
        assert chosen.rounding is not None and chosen.rounding.abs().max() <= 0.5


@pytest.mark.parametrize("spec", ["int4-g32-sym", "int3-g64-asym"])
def test_it_learns(spec: str) -> None:
    one = block(spec)
    plan = drain(get_pass("autoround", iters=40).steps(one))
    assert loss(one, dict(plan.linears)) < 0.8 * loss(one, {})
    codes = {n: round_to_nearest(m.weight, one.specs[n]).codes for n, m in one.linears.items()}
    learned = {n: quantize(m.weight, one.specs[n], plan=plan.linears[n]).codes for n, m in one.linears.items()}
    assert all((codes[n] != learned[n]).any() for n in codes)


def test_where_nothing_helps_plain_rounding_stays() -> None:
    one = block("int4-g32-sym")
    plan = drain(get_pass("autoround", iters=1, lr=1e-9).steps(one))  # the one iterate is plain rounding itself
    assert loss(one, dict(plan.linears)) == pytest.approx(loss(one, {}), rel=1e-6)


def test_the_same_seed_gives_the_same_codes_and_another_does_not() -> None:
    def codes(seed: int) -> torch.Tensor:
        recipe = Recipe.of("int4-g32-sym", passes=[("autoround", {"iters": 20, "seed": seed, "batch": 2})])
        model, _ = quantized_copy(tiny(dtype=torch.float32), recipe, CALIBRATION, progress=False)
        return torch.cat([m.qtensor.codes.flatten() for m in model.modules() if hasattr(m, "qtensor")])

    assert torch.equal(codes(0), codes(0)) and not torch.equal(codes(0), codes(1))


def test_a_whole_run_beats_plain_rounding_and_says_by_how_much() -> None:
    model = tiny(dtype=torch.float32)
    ids = CALIBRATION.ids

    def distance(method: str) -> tuple[float, list[str]]:
        twin, report = quantized_copy(model, Recipe.of("int3-g32-asym", method), CALIBRATION, progress=False)
        with torch.no_grad():
            error = (twin(ids).logits - model(ids).logits).square().mean()
        return float(error), [row.note for row in report.rows if row.status == "quantized"]

    plain, _ = distance("rtn")
    learned, notes = distance("autoround")
    assert learned < plain and all("of plain rounding's loss" in note for note in notes)


def test_bad_options_and_grids_are_refused() -> None:
    with pytest.raises(QlabError, match="iters ≥ 1"):
        get_pass("autoround", iters=0)
    with pytest.raises(QlabError, match=r"learns integer grids.*q_proj has nf4"):
        drain(get_pass("autoround").steps(block("nf4-g32")))
    with pytest.raises(QlabError):
        quantized_copy(tiny(dtype=torch.float32), Recipe.of("int4-g32-sym", "autoround+gptq"), CALIBRATION)
