"""AWQ: no scale is plain rounding, a scale never loses to it, and the float model does not notice."""

import pytest
import torch
from torch import Tensor, nn

from qlab import blockwise
from qlab.blocks import StreamedBlock
from qlab.errors import QlabError
from qlab.nn import QLinear
from qlab.passes import awq, get_pass, register_pass
from qlab.plan import LinearPlan, Plan
from qlab.ranges import round_to_nearest
from qlab.recipes import Recipe
from qlab.report import LayerReport
from qlab.run import quantized_copy
from qlab.spec import QuantSpec
from qlab.step import Step
from tests.passes.tiny import CALIBRATION, FAMILIES, IDS, InDouble, block_of, logits, tiny

SPECS = ["int4-g32-sym", "int3-g64-asym", "int2-row-awq"]


def run(chosen: awq.AWQ, block: StreamedBlock) -> tuple[list[list[Step]], Plan]:
    """The Steps of each fold, and the Plan."""
    folds: list[list[Step]] = []
    steps = chosen.steps(block)
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return folds, stop.value
        if step.index == 0:
            folds.append([])
        folds[-1].append(step)


@pytest.mark.parametrize("spec", SPECS)
def test_without_an_exponent_awq_is_plain_rounding_bit_for_bit(spec: str) -> None:
    g = torch.Generator().manual_seed(0)
    W, x = torch.randn(24, 96, generator=g), torch.randn(96, generator=g).abs()
    x[3] = 0  # a channel that was never used
    scale = awq.scale_of(x, 0.0)
    assert torch.equal(scale, torch.ones(96))
    assert torch.equal(
        awq.rounded(W, QuantSpec.parse(spec), scale), round_to_nearest(W, QuantSpec.parse(spec)).dequantize()
    )


def test_the_driver_with_no_exponent_but_zero_is_plain_rounding_bit_for_bit() -> None:
    only_zero = [("awq", {"points": 1, "grid": "reference"})]
    scaled, _ = quantized_copy(tiny(), Recipe.of("int4-g32-asym", passes=only_zero), CALIBRATION, progress=False)
    plain, _ = quantized_copy(tiny(), "int4-g32-asym", progress=False)
    for (name, a), (_, b) in zip(scaled.named_modules(), plain.named_modules(), strict=True):
        if isinstance(a, QLinear):
            assert torch.equal(a.qtensor.codes, b.qtensor.codes), name
            assert torch.equal(a.qtensor.scale, b.qtensor.scale)


def output_loss(block: StreamedBlock, weights: dict[str, Tensor]) -> float:
    """Mean squared error of the block's output over the whole calibration."""
    Y = torch.cat([block.target(i) for i in range(len(block.inputs))])
    return float((block.forward(torch.cat(list(block.inputs)), weights) - Y).square().mean())


@pytest.mark.parametrize(
    ("family", "rule", "spec"),
    [("llama", "autoawq", SPECS[0]), ("llama", "paper", SPECS[1]), ("llama", "autoawq", SPECS[2]),
     ("phi", "paper", SPECS[0]), ("gemma", "autoawq", SPECS[1]), ("qwen3", "paper", SPECS[2])],
)  # fmt: skip
def test_the_chosen_scale_has_the_least_loss_and_never_more_than_none(family: str, rule: str, spec: str) -> None:
    block = block_of(tiny(family), spec)
    folds, plan = run(awq.AWQ(rule=rule), block)
    assert len(folds) == len(block.folds)
    chosen = {transform.linears: transform.matrix for transform in plan.transforms}
    for fold, steps in zip(block.folds, folds, strict=True):
        scale = chosen.get(fold.linears)
        W = {name: block.linears[name].weight.float() for name in fold.linears}
        one = torch.ones(next(iter(W.values())).shape[1])
        plain, scaled = (
            {n: (round_to_nearest(w * s, QuantSpec.parse(spec)).dequantize() / s).double() for n, w in W.items()}
            for s in (one, one if scale is None else scale)
        )
        loss, without = output_loss(block, scaled), output_loss(block, plain)
        assert loss <= without
        # a float64 sum over 96 tokens of 64 numbers, in another order
        rounding = IDS.numel() * 64 * torch.finfo(torch.float64).eps
        assert steps[0].error == pytest.approx(without, rel=rounding)
        assert min(step.error for step in steps) == pytest.approx(loss, rel=rounding)


def test_a_scale_helps_where_channels_differ() -> None:
    _, plan = run(awq.AWQ(), block_of(tiny(), "int3-g64-asym"))
    assert plan.transforms and "α" in plan.notes["self_attn.q_proj"]


def autoawq_scale(W: list[Tensor], X: Tensor, group: int, ratio: float) -> Tensor:
    """AutoAWQ's duo scaling, row by row and group by group."""
    rows = torch.cat(W)
    relative = torch.empty_like(rows)
    for i in range(rows.shape[0]):
        for j in range(0, rows.shape[1], group):
            part = rows[i, j : j + group].abs()
            relative[i, j : j + group] = part / (part.max() + 1e-6)
    scale = (X.abs().mean(0).pow(ratio) / (relative.mean(0).pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
    return scale / (scale.max() * scale.min()).sqrt()


def paper_scale(X: Tensor, alpha: float) -> Tensor:
    """Eq. 5: the average magnitude of each channel to the power alpha, up to a common factor."""
    return X.abs().mean(0) ** alpha


@pytest.mark.parametrize("fold", [0, 3])
def test_both_rules_against_their_sources(fold: int) -> None:
    block = block_of(tiny(), "int4-g64-asym")  # groups of 64, and for mlp.down_proj one of 32 after them
    names = block.folds[fold].linears
    X = inputs_of(block, names[0])
    by_rule = {rule: run(awq.AWQ(rule=rule), block)[0][fold][1:] for rule in awq.RULES}
    W = [block.linears[name].weight.float() for name in names]
    for paper, duo in zip(by_rule["paper"], by_rule["autoawq"], strict=True):
        alpha = float(paper.data["alpha"])
        wanted = paper_scale(X, alpha)
        ratio = paper.data["scale"] / wanted
        eps = 64 * torch.finfo(torch.float32).eps  # statistics in float64, a power and two quotients in float32
        assert torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=eps)
        assert torch.allclose(duo.data["scale"], autoawq_scale(W, X, 64, alpha), rtol=eps)


def inputs_of(block: StreamedBlock, name: str) -> Tensor:
    """The inputs of a linear, [tokens, in], in float32 as the search has their mean."""
    seen: list[Tensor] = []
    handle = block.linears[name].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for X in block.inputs:
        block.forward(X, {})
    handle.remove()
    return torch.cat([X.reshape(-1, X.shape[-1]) for X in seen]).float()


@pytest.mark.parametrize("points", [1, 4, 20])
def test_only_the_closed_grid_tries_one(points: int) -> None:
    closed, reference = awq.AWQ(points=points).alphas, awq.AWQ(points=points, grid="reference").alphas
    assert closed == [*reference, 1.0] and len(reference) == points and max(reference) < 1


@pytest.fixture
def folds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver runs its passes and folds, and leaves the folded weights as they are."""

    def untouched(model: nn.Module, plan, *_: object) -> LayerReport:
        return LayerReport(plan.name, "quantized", "float", 16.0, 2, 0.0, 0.0)

    monkeypatch.setattr(blockwise, "quantize_layer", untouched)


@pytest.mark.usefixtures("folds_only")
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_folding_leaves_the_float_model(family: str, kv_heads: int) -> None:
    model = tiny(family, kv_heads)
    before = logits(model)
    folded, _ = quantized_copy(model, Recipe.of("int3-g64-asym", passes=[("awq", {})]), CALIBRATION, progress=False)
    assert (logits(folded) - before).abs().max() < 1e-10 * before.abs().max()
    attention, changed = ("dense" if family == "phi" else "o_proj"), set[str]()
    for (name, a), (_, b) in zip(model.named_modules(), folded.named_modules(), strict=True):
        if isinstance(a, nn.Linear) and not torch.equal(a.weight, b.weight):
            changed.add(name.split(".")[-1])
    assert "q_proj" in changed
    assert (attention in changed) == (kv_heads == 4)


@pytest.mark.usefixtures("folds_only")
def test_a_linear_that_is_skipped_takes_the_scale_of_its_fold() -> None:
    model = tiny()
    rules = [{"match": "*.k_proj", "skip": "kept"}, {"match": "lm_head", "skip": "kept"},
             {"match": "*", "weight": "int3-g64-asym", "passes": ["awq"]}]  # fmt: skip
    recipe = Recipe.from_dict({"version": 1, "rules": rules})
    folded, _ = quantized_copy(model, recipe, CALIBRATION, progress=False)
    before = logits(model)
    assert not torch.equal(
        folded.model.layers[0].self_attn.k_proj.weight, model.model.layers[0].self_attn.k_proj.weight
    )
    assert (logits(folded) - before).abs().max() < 1e-10 * before.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_leaves_every_parameter_of_the_original(family: str) -> None:
    model = tiny(family)
    before = {name: (p, p.clone()) for name, p in model.named_parameters()}
    recipe = Recipe.of("int3-g64-asym", passes=[("awq", {}), ("clip", {})])
    copy, _ = quantized_copy(model, recipe, CALIBRATION, progress=False)
    for name, p in model.named_parameters():
        assert p is before[name][0] and torch.equal(p, before[name][1]), name
    assert copy.get_input_embeddings().weight is model.get_input_embeddings().weight


@register_pass("compare_statistics_test")
class CompareStatistics:
    """After a fold, the block's statistics are those that fresh observation finds."""

    needs = frozenset({"gram"})
    folded = 0

    def steps(self, block: StreamedBlock):
        fresh = block.stream.observe(block.index, block.linears)
        for name, stats in block.stats.items():
            for part in ("gram", "mean_abs", "mean_sq"):
                a, b = getattr(stats, part), getattr(fresh[name], part)
                # sums over 96 tokens of products and quotients in float64
                assert torch.allclose(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max())), (name, part)
            CompareStatistics.folded += 1
        yield Step("looked", 0, 1, 0.0)
        return Plan()


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_after_a_fold_are_those_of_a_fresh_look(family: str) -> None:
    CompareStatistics.folded = 0
    recipe = Recipe.of("int3-g64-asym", passes=[("awq", {}), ("compare_statistics_test", {})])
    with InDouble():
        _, report = quantized_copy(tiny(family), recipe, CALIBRATION, progress=False)
    quantized = [row for row in report.rows if row.status == "quantized"]
    assert CompareStatistics.folded == len(quantized) > 0
    assert any("α" in row.note for row in quantized)


def test_earlier_clips_take_part_in_the_search() -> None:
    block = block_of(tiny(), "int3-g64-asym")
    name = "mlp.down_proj"
    limit = torch.full((1, 1), 0.2)
    block.plans[name] = LinearPlan(clip=(-limit, limit))
    W = block.linears[name].weight.float().clamp(-0.2, 0.2)
    wanted = output_loss(block, {name: round_to_nearest(W, QuantSpec.parse("int3-g64-asym")).dequantize().double()})
    assert run(awq.AWQ(), block)[0][3][0].error == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("tokens", "seen"), [(1, 16), (16, 16), (40, 32), (96, 96), (5000, 96)])
def test_the_search_runs_on_whole_samples_up_to_its_tokens(tokens: int, seen: int) -> None:
    block = block_of(tiny(), "int4-g32-sym")
    block.stream.hidden = [X[None] for X in torch.cat(list(block.inputs))][:6]
    assert sum(X.shape[0] * X.shape[1] for X, _ in awq._sample(block, tokens)) == seen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "duo"}, "awq: unknown rule 'duo': choose one of paper, autoawq"),
        ({"grid": "open"}, "awq: unknown grid 'open': choose one of closed, reference"),
        ({"points": 0}, "awq needs points ≥ 1 and tokens ≥ 1"),
        ({"tokens": 0}, "awq needs points ≥ 1 and tokens ≥ 1"),
    ],
)
def test_senseless_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(QlabError, match=message):
        get_pass("awq", **options)


def test_awq_with_clip_and_gptq_beats_awq_with_plain_rounding() -> None:
    errors = []
    for passes, method in (([("awq", {})], "rtn"), ([("awq", {}), ("clip", {})], "gptq")):
        recipe = Recipe.of("int3-g32-asym", method, passes=passes)
        _, report = quantized_copy(tiny(), recipe, CALIBRATION, progress=False)
        errors.append([row.rel_output for row in report.rows if row.rel_output is not None])
    assert len(errors[0]) == 14
    assert all(gptq < rtn for rtn, gptq in zip(*errors, strict=True))
