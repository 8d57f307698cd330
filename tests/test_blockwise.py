"""The driver of calibrated methods: what is refused, in which order linears see each other, what stays shared."""

import pytest
import torch
from torch import nn

from qlab.blocks import BlockStream
from qlab.errors import QlabError
from qlab.methods import quantize
from qlab.nn import QLinear
from qlab.passes import register_pass
from qlab.plan import LinearPlan, Plan, Transform
from qlab.recipes import Recipe
from qlab.run import quantize_, quantized_copy
from qlab.step import Step
from tests.passes.tiny import CALIBRATION, IDS, tiny

SPEC = "int3-g32-asym"
INSIDE = "model.layers.0."
QKV = tuple(f"self_attn.{x}_proj" for x in "qkv")


def recipe(*rules: dict) -> Recipe:
    head = {"match": "lm_head", "skip": "kept"}
    return Recipe.from_dict({"version": 1, "rules": [head, *rules, {"match": "*", "weight": SPEC}]})


@pytest.mark.parametrize("true_sequential", [False, True])
def test_true_sequential_linears_see_the_quantized_ones_before_them(true_sequential: bool) -> None:
    model = tiny()
    copy, _ = quantized_copy(
        model, Recipe.of(SPEC, "gptq"), CALIBRATION, true_sequential=true_sequential, progress=False
    )
    twin = tiny()
    stream, block = BlockStream(twin, IDS), twin.model.layers[0]
    for group in (QKV, ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)):
        seen = BlockStream(model, IDS).observe(0, group) if not true_sequential else stream.observe(0, group)
        for name in group:
            Q = quantize(block.get_submodule(name).weight.float(), SPEC, "gptq", stats=seen[name])
            assert torch.equal(copy.get_submodule(INSIDE + name).qtensor.codes, Q.codes), name
            block.set_submodule(name, QLinear(Q))


def test_only_linears_after_the_first_quantized_ones_notice_the_order() -> None:
    first, second = (
        quantized_copy(tiny(), Recipe.of(SPEC, "gptq"), CALIBRATION, true_sequential=order, progress=False)[0]
        for order in (False, True)
    )
    same = {
        name for name, module in first.model.layers[0].named_modules()
        if isinstance(module, QLinear)
        and torch.equal(module.qtensor.codes, second.get_submodule(INSIDE + name).qtensor.codes)
    }  # fmt: skip
    assert same == set(QKV)


def test_different_passes_in_one_block_are_refused_before_any_work() -> None:
    model = tiny()
    with pytest.raises(QlabError, match=r"model\.layers\.0\.self_attn\.\w+ and model\.layers\.0\.\S+ have different"):
        quantize_(model, recipe({"match": "*mlp*", "weight": SPEC, "passes": ["clip"]}), CALIBRATION)
    options = recipe({"match": "*mlp*", "weight": SPEC, "passes": [{"clip": {"grid": 30}}]},
                     {"match": "*attn*", "weight": SPEC, "passes": ["clip"]})  # fmt: skip
    with pytest.raises(QlabError, match="a pass works on a whole block, so give the linears of one block the same"):
        quantize_(model, options, CALIBRATION)
    assert not any(isinstance(m, QLinear) for m in model.modules())


def test_blocks_may_differ_in_their_passes() -> None:
    rules = recipe({"match": "model.layers.0.*", "weight": SPEC, "passes": ["awq"]})
    _, report = quantized_copy(tiny(), rules, CALIBRATION, progress=False)
    notes = {row.layer: row.note for row in report.rows}
    assert "α" in notes[INSIDE + QKV[0]] and notes["model.layers.1." + QKV[0]] == ""


def test_a_pass_without_calibration_is_refused() -> None:
    with pytest.raises(QlabError, match=r"pass 'awq' for model\.layers\.0.*needs calibration activations"):
        quantize_(tiny(), Recipe.of(SPEC, passes=[("awq", {})]), progress=False)


def test_true_sequential_order_and_gptaq_exclude_each_other() -> None:
    with pytest.raises(QlabError, match="true-sequential order and gptq's alpha"):
        quantize_(tiny(), Recipe.of(SPEC, "gptq", alpha=0.25), CALIBRATION, true_sequential=True)


def test_data_free_linears_stand_beside_calibrated_ones() -> None:
    model = tiny()
    mixed, report = quantized_copy(model, recipe({"match": "*mlp*", "weight": SPEC, "method": "gptq"}), CALIBRATION,
                                   progress=False)  # fmt: skip
    up, q = (mixed.get_submodule(INSIDE + name).qtensor for name in ("mlp.up_proj", QKV[0]))
    floats = model.model.layers[0]
    assert torch.equal(q.codes, quantize(floats.self_attn.q_proj.weight.float(), SPEC).codes)
    assert not torch.equal(up.codes, quantize(floats.mlp.up_proj.weight.float(), SPEC).codes)
    rows = {row.layer: row for row in report.rows}
    assert rows[INSIDE + QKV[0]].rel_output is None and rows[INSIDE + "mlp.up_proj"].rel_output is not None


@register_pass("double_queries_test")
class DoubleQueries:
    """A scale of 2 for the first linears; limits for another, and where it has some already, rounding offsets."""

    needs = frozenset({"abs"})

    def steps(self, block):
        yield Step("nothing", 0, 1, 0.0)
        fold = block.folds[0]
        scale = Transform(fold.linears, "in", torch.full((64,), 2.0), (str(fold.into),))
        limit = torch.full((1, 1), 0.25)
        up = "mlp.up_proj"
        if block.plans[up].clip is None:
            return Plan((scale,), {up: LinearPlan(clip=(-limit, limit))}, {up: f"clipped in {block.name}"})
        return Plan((scale,), {up: LinearPlan(rounding=torch.full((96, 64), 0.4))}, {up: "rounded up"})


def test_what_passes_chose_adds_up() -> None:
    model = tiny()
    twice = [("double_queries_test", {})] * 2
    copy, report = quantized_copy(model, Recipe.of(SPEC, passes=twice), CALIBRATION, progress=False)
    notes = {row.layer.removeprefix(INSIDE): row.note for row in report.rows if row.layer.startswith(INSIDE)}
    block, floats = copy.model.layers[0], model.model.layers[0]
    for name in QKV:
        wanted = quantize(4 * floats.get_submodule(name).weight.float(), SPEC)
        assert torch.equal(block.get_submodule(name).qtensor.codes, wanted.codes)
        assert notes[name] == ""
    assert torch.equal(block.input_layernorm.weight, floats.input_layernorm.weight / 4)
    assert block.post_attention_layernorm.weight is floats.post_attention_layernorm.weight
    W = floats.mlp.up_proj.weight.float().clamp(-0.25, 0.25)
    wanted = quantize(W, SPEC, plan=LinearPlan(rounding=torch.full((96, 64), 0.4)))
    assert torch.equal(block.mlp.up_proj.qtensor.codes, wanted.codes)
    assert notes["mlp.up_proj"] == "clipped in model.layers.0; rounded up"


def test_reports_compare_with_plain_rounding_of_the_unscaled_weights() -> None:
    model = tiny()
    _, report = quantized_copy(model, Recipe.of(SPEC, passes=[("awq", {})]), CALIBRATION, progress=False)
    stats = BlockStream(model, IDS).observe(0, QKV)
    rows = {row.layer: row for row in report.rows}
    for name in QKV:
        W = model.model.layers[0].get_submodule(name).weight
        plain = quantize(W.float(), SPEC).error(W, stats[name].gram).rel_mse
        assert rows[INSIDE + name].rtn_output == pytest.approx(plain, rel=1e-5)


def test_linears_outside_the_blocks_are_quantized_without_data() -> None:
    rules = Recipe.from_dict({"version": 1, "rules": [{"match": "model.*", "weight": SPEC, "method": "gptq"},
                                                      {"match": "*", "weight": SPEC}]})  # fmt: skip
    model = tiny("phi")  # its head has weights of its own
    head = model.lm_head.weight.clone()
    quantize_(model, rules, CALIBRATION, progress=False)
    assert isinstance(model.lm_head, QLinear) and not any(isinstance(m, nn.Linear) for m in model.modules())
    assert torch.equal(model.lm_head.qtensor.codes, quantize(head.float(), SPEC).codes)
