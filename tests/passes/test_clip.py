"""Clipping: group by group the best limit of those tried, and never a worse group than before."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qlab.errors import QlabError
from qlab.methods import quantize
from qlab.nn import QLinear
from qlab.passes import clip, get_pass
from qlab.plan import LinearPlan
from qlab.ranges import round_to_nearest
from qlab.recipes import Recipe
from qlab.run import quantized_copy
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import drain
from tests.passes.tiny import CALIBRATION, block_of, tiny

SPECS = ["int3-g64-asym", "int2-g32-sym", "int3-row-awq", "int2-g64-offset"]


def problem(n: int = 96) -> tuple[Tensor, Tensor, Stats]:
    """Heavy-tailed weights [20, n], where clipping pays, and correlated inputs [120, n]."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(120, n, generator=g, dtype=torch.float64) @ torch.randn(n, n, generator=g, dtype=torch.float64)
    stats = Stats(n)
    stats.update(X)
    return torch.randn(20, n, generator=g, dtype=torch.float64).pow(3), X, stats


def by_token(E: Tensor, X: Tensor, spec: QuantSpec) -> Tensor:
    """Σ over tokens of (x_g·e_g)², [out, groups], token by token."""
    size = spec.group_in(E.shape[1])
    starts = range(0, E.shape[1], size)
    parts = [sum((E[:, i : i + size] @ x[i : i + size]) ** 2 for x in X) for i in starts]
    return torch.stack(parts, dim=1)


def clipped_error(W: Tensor, X: Tensor, spec: QuantSpec, limit: Tensor | None = None) -> Tensor:
    inside = W if limit is None else torch.minimum(torch.maximum(W, -limit), limit)
    return by_token(W - round_to_nearest(inside, spec).dequantize(), X, spec)


@pytest.mark.parametrize("spec", SPECS)  # 96 columns: groups of 64 leave a shorter one
def test_a_groups_error_is_its_share_of_the_output_token_by_token(spec: str) -> None:
    W, X, stats = problem()
    wanted = by_token(W, X, QuantSpec.parse(spec))
    # sums of 120 tokens and 96 channels in float64, their terms of both signs
    assert torch.allclose(clip.group_errors(W, QuantSpec.parse(spec), stats), wanted, rtol=1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_each_group_gets_the_best_of_the_limits_tried(spec: str) -> None:
    W, X, stats = problem()
    spec = QuantSpec.parse(spec)
    shrink = drain(clip.Clip()._search(W, spec, stats))
    size = spec.group_in(W.shape[1])
    index = torch.arange(W.shape[1]) // size
    top = torch.stack([W[:, index == i].abs().amax(1) for i in range(int(index[-1]) + 1)], dim=1)
    tried = {1 - i / 20: clipped_error(W, X, spec, (top * (1 - i / 20))[:, index]) for i in range(10)}
    chosen = clipped_error(W, X, spec, (top * shrink)[:, index])
    plain = clipped_error(W, X, spec)
    assert (chosen <= torch.stack(list(tried.values())).amin(0) * (1 + 1e-10)).all()
    assert (chosen <= plain).all() and (chosen < plain).any()


def test_of_equal_limits_the_widest_stays() -> None:
    _, _, stats = problem()
    empty = torch.zeros(20, 96, dtype=torch.float64)  # no limit makes an error
    assert (drain(clip.Clip()._search(empty, QuantSpec.parse("int4-g32-asym"), stats)) == 1).all()


def test_the_steps_error_never_rises() -> None:
    W, X, stats = problem()
    spec = QuantSpec.parse("int3-g64-asym")
    steps = list(clip.Clip(grid=10, shrinks=6)._search(W, spec, stats))
    errors = [step.error for step in steps]
    assert len(steps) == 6 and errors == sorted(errors, reverse=True) and errors[-1] < errors[0]
    assert errors[0] == pytest.approx(float(clipped_error(W, X, spec).sum()), rel=1e-10)
    assert {round(float(x), 6) for x in steps[-1].data["shrink"].unique()} <= {1.0, 0.9, 0.8, 0.7, 0.6, 0.5}


def test_queries_and_keys_stay_and_so_does_what_has_no_rows() -> None:
    block = block_of(tiny(), "int3-g64-asym")
    others = set(block.linears) - {"self_attn.q_proj", "self_attn.k_proj"}
    assert set(drain(clip.Clip().steps(block)).linears) == others
    assert set(drain(clip.Clip(skip=()).steps(block)).linears) == set(block.linears)
    block.specs = dict(block.specs) | {"mlp.up_proj": QuantSpec.parse("nf4-g64-flat")}
    assert set(drain(clip.Clip().steps(block)).linears) == others - {"mlp.up_proj"}


def test_limits_stand_at_every_weight_and_the_note_counts_the_groups() -> None:
    block = block_of(tiny(), "int3-g64-asym")
    plan = drain(clip.Clip().steps(block))
    for name, linear in plan.linears.items():
        W = block.linears[name].weight.float()
        lo, hi = linear.clip
        assert lo.shape == hi.shape == W.shape and torch.equal(lo, -hi)
        groups = hi.split(64, dim=1)
        assert all(torch.equal(part, part[:, :1].expand_as(part)) for part in groups)
        cut = [g[:, 0] < w.abs().amax(1) for g, w in zip(groups, W.split(64, dim=1), strict=True)]
        assert plan.notes[name] == f"{float(torch.stack(cut).float().mean()):.0%} of groups clipped"


def test_a_method_quantizes_what_was_clipped() -> None:
    model = tiny()
    copy, _ = quantized_copy(model, Recipe.of("int3-g64-asym", passes=[("clip", {})]), CALIBRATION, progress=False)
    decided = drain(clip.Clip().steps(block_of(model, "int3-g64-asym"))).linears
    for name, module in copy.model.layers[0].named_modules():
        if isinstance(module, QLinear):
            W = model.model.layers[0].get_submodule(name).weight.float()
            wanted = quantize(decided.get(name, LinearPlan()).clipped(W), "int3-g64-asym")
            assert torch.equal(module.qtensor.codes, wanted.codes)
            assert torch.equal(module.qtensor.scale, wanted.scale)


def test_clipping_goes_on_from_earlier_limits() -> None:
    block = block_of(tiny(), "int3-g64-asym")
    name, limit = "mlp.down_proj", torch.full((1, 1), 0.1)
    block.plans[name] = replace(block.plans[name], clip=(-limit, limit))
    assert drain(clip.Clip().steps(block)).linears[name].clip[1].max() <= 0.1


@pytest.mark.parametrize("options", [{"shrinks": 0}, {"grid": 5, "shrinks": 6}])
def test_senseless_options_are_refused(options: dict) -> None:
    with pytest.raises(QlabError, match="clip needs 1 ≤ shrinks ≤ grid"):
        get_pass("clip", **options)
