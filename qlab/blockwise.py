"""Block by block: passes, then methods, on the inputs that the quantized predecessors really produce."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn

from qlab.blocks import BlockStream, StreamedBlock
from qlab.calibration import Calibration
from qlab.errors import QlabError
from qlab.families import Fold, applicable, family_of, fold_scale
from qlab.files.save import narrowed
from qlab.methods import Method, get_method, quantize
from qlab.nn import QLinear
from qlab.passes import get_pass
from qlab.plan import LinearPlan, Plan
from qlab.qtensor import QTensor
from qlab.recipes import LayerPlan, Resolution
from qlab.report import LayerReport
from qlab.stats import Stats
from qlab.step import Steps, drain


class Blockwise:
    """The driver of calibrated methods: `quantize` block i, `advance` through it, and go on to the next.

    true_sequential: linears of a block see what the quantized ones before them in the same block send (GPTQ's
    `--true-sequential`), at one more run through the block for each group that shares an input.
    Errors (QlabError) before any work: statistics needed and no calibration given, calibrated linears outside the
    blocks, linears of one block with different passes.
    """

    def __init__(
        self,
        model: nn.Module,
        resolution: Resolution,
        calibration: Calibration | None = None,
        true_sequential: bool = False,
    ):
        self.model = model
        self.true_sequential = true_sequential
        self.plans = {plan.name: plan for plan in resolution.layers}
        self.needs = {plan.name: needs_of(plan, calibration) for plan in resolution.layers}
        self.calibrated = any(self.needs.values())
        self.source = calibration.title if calibration and self.calibrated else None
        if calibration is None or not self.calibrated:
            return
        wanted = frozenset().union(*self.needs.values())
        self.cross = "cross" in wanted
        if self.cross and true_sequential:
            raise QlabError("true-sequential order and gptq's alpha (GPTAQ) exclude each other: choose one")
        self.stream = BlockStream(model, calibration.ids, float_path=self.cross or "float_inputs" in wanted)
        family = family_of(str(getattr(model.config, "model_type", "")))
        self.folds = family.folds if family else ()
        prefixes = tuple(f"{self.stream.name(i)}." for i in range(len(self)))
        self._outside = [name for name in self.plans if not name.startswith(prefixes)]
        for name in self._outside:
            if self.needs[name]:
                raise QlabError(
                    f"{name} lies outside the blocks {self.stream.path}.*: give it a data-free method, or skip it"
                )
        for i in range(len(self)):
            self._passes(i)

    def __len__(self) -> int:
        return len(self.stream.blocks)

    def outside(self) -> dict[str, LayerReport]:
        """Quantize the linears that lie in no block, which need no statistics."""
        return {name: quantize_layer(self.model, self.plans[name]) for name in self._outside}

    @torch.no_grad()
    def quantize(self, index: int) -> dict[str, LayerReport]:
        """Quantize the linears of block `index`; what happened to each, by its name in the model."""
        prefix = f"{self.stream.name(index)}."
        plans = {name.removeprefix(prefix): plan for name, plan in self.plans.items() if name.startswith(prefix)}
        stats = self.stream.observe(index, [n for n in plans if self.needs[prefix + n]], self.cross)
        plain = {name: self._rounding_error(plans[name], stats[name]) for name in stats}
        self.stream.advance_float(index)
        chosen, notes = self._run_passes(index, plans, stats)
        rows = {name: quantize_layer(self.model, plan) for name, plan in plans.items() if name not in stats}
        for number, group in enumerate(_sharing(stats)):
            if self.true_sequential and number:
                stats |= self.stream.observe(index, group)
            for name in group:
                row = quantize_layer(self.model, plans[name], stats[name], chosen.get(name))
                note = "; ".join(filter(None, (notes.get(name, ""), row.note)))
                rows[name] = replace(row, rtn_output=plain[name], note=note)
        return {prefix + name: rows[name] for name in plans}

    def advance(self, index: int) -> None:
        """Send the calibration tokens through block `index` as it is now."""
        self.stream.advance(index)

    def _rounding_error(self, plan: LayerPlan, stats: Stats) -> float:
        """The relative error of the linear's output if it were rounded to nearest."""
        W = cast(nn.Linear, self.model.get_submodule(plan.name)).weight
        assert plan.rule.weight is not None
        return output_error(quantize(W.float(), plan.rule.weight), W, stats)

    def _passes(self, index: int) -> tuple[tuple[str, Any], ...]:
        """The passes of a block: the same for all of its linears that have any."""
        prefix = f"{self.stream.name(index)}."
        rules = {n: p.rule for n, p in self.plans.items() if n.startswith(prefix) and p.rule.skip is None}
        for (first, a), (second, b) in zip(list(rules.items())[:-1], list(rules.items())[1:], strict=True):
            if a.passes != b.passes:
                raise QlabError(f"{first} and {second} have different passes: a pass works on a whole block, "
                                "so give the linears of one block the same")  # fmt: skip
        return next(iter(rules.values())).passes if rules else ()

    def _run_passes(
        self, index: int, plans: dict[str, LayerPlan], stats: dict[str, Stats]
    ) -> tuple[dict[str, LinearPlan], dict[str, str]]:
        """Run a block's passes one after the other, folding what each one chose before the next looks."""
        module = self.stream.blocks[index]
        notes: dict[str, list[str]] = {}
        block = StreamedBlock(
            self.stream,
            index,
            {name: cast(nn.Linear, module.get_submodule(name)) for name in stats},
            {name: spec for name in stats if (spec := plans[name].rule.weight)},
            stats,
            [fold for fold in self.folds if applicable(fold, module)],
        )
        for name, options in self._passes(index):
            plan = drain(get_pass(name, **options).steps(block))
            self._fold(block, module, plan)
            for linear, decision in plan.linears.items():
                block.plans[linear] = block.plans[linear].then(decision)
            for linear, note in plan.notes.items():
                notes.setdefault(linear, []).append(note)
        return block.plans, {linear: "; ".join(parts) for linear, parts in notes.items()}

    @staticmethod
    def _fold(block: StreamedBlock, module: nn.Module, plan: Plan) -> None:
        """Put scales into the weights and what stands before them; the statistics follow."""
        for transform in plan.transforms:
            fold = next(f for f in block.folds if f.linears == transform.linears)
            for name in (str(fold.into), *fold.linears):
                _own(module.get_submodule(name))
            into = module.get_submodule(str(fold.into))
            dtype = _norm_dtype(into)
            scale = _storable(into, fold, transform.matrix, dtype)
            fold_scale(module, fold, scale)
            if dtype is not None:  # the quotient, but for a last bit of single precision
                cast(Tensor, into.weight).copy_(cast(Tensor, into.weight).to(dtype))
            shared = {id(block.stats[n]): block.stats[n] for n in fold.linears if n in block.stats}
            scaled = {key: stats.rescaled(scale) for key, stats in shared.items()}
            block.stats.update({n: scaled[id(block.stats[n])] for n in fold.linears if n in block.stats})


def _norm_dtype(into: nn.Module) -> torch.dtype | None:
    """The 16-bit dtype that holds a norm's weight; None where there is none, and for linears: those are quantized."""
    w = cast(Tensor, into.weight).detach()
    dtype = narrowed(w).dtype
    return dtype if w.ndim == 1 and dtype != w.dtype else None


def _storable(into: nn.Module, fold: Fold, scale: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The scale near `scale` by which a norm of 16 bits can be divided and stay one.

    A file holds the folded norm in 16 bits, as it was; were it rounded only there, the scale in the weights would no
    longer be its inverse.
    """
    if dtype is None:
        return scale
    offset = float(fold.unit_offset)
    base = cast(Tensor, into.weight).double() + offset
    divided = (base / scale - offset).to(dtype).double() + offset
    exact = base / divided
    return torch.where((exact > 0) & exact.isfinite(), exact, scale.double())


def _own(module: nn.Module) -> None:
    """Give a module parameters of its own: those of a copy are shared with the original."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))


def _sharing(stats: dict[str, Stats]) -> Iterator[list[str]]:
    """Runs of linears that share an input, in the order they run in."""
    for _, names in groupby(stats, key=lambda name: id(stats[name])):
        yield list(names)


def needs_of(plan: LayerPlan, calibration: Calibration | None) -> frozenset[str]:
    """What one layer's passes and method need; QlabError where it cannot be had."""
    if plan.rule.skip is not None:
        return frozenset()
    stops = [("pass", name, get_pass(name, **options)) for name, options in plan.rule.passes]
    stops.append(("method", plan.rule.method, get_method(plan.rule.method, **plan.rule.options)))
    for kind, name, stop in stops:
        if (kind == "pass" or stop.needs) and calibration is None:
            raise QlabError(f"{kind} {name!r} for {plan.name} needs calibration activations: give a "
                            "calibration text, or use a data-free method such as rtn or mse")  # fmt: skip
    return frozenset().union(*(stop.needs for _, _, stop in stops))


@torch.no_grad()
def quantize_layer(
    model: nn.Module, plan: LayerPlan, stats: Stats | None = None, chosen: LinearPlan | None = None
) -> LayerReport:
    """Quantize one linear, put its QLinear in place, and say what happened."""
    if plan.rule.weight is None:
        size = 2 * plan.shape[0] * plan.shape[1]
        return LayerReport(plan.name, f"skipped: {plan.rule.skip}", "float", 16.0, size, None, 0.0)
    linear = cast(nn.Linear, model.get_submodule(plan.name))
    W = linear.weight.detach()
    start = time.perf_counter()
    method = _Watched(get_method(plan.rule.method, **plan.rule.options))
    try:
        Q = quantize(W.float(), plan.rule.weight, method, stats=stats, plan=chosen, name=plan.name)
    except QlabError as error:
        if plan.name in str(error):
            raise
        raise QlabError(f"{plan.name}: {error}") from error
    model.set_submodule(plan.name, QLinear(Q, linear.bias, plan.rule.input))
    report = LayerReport(
        plan.name, "quantized", str(Q.spec), Q.bits_per_weight, Q.nbytes, Q.error(W).rel_mse,
        time.perf_counter() - start, note=method.note,
    )  # fmt: skip
    return report if stats is None else replace(report, rel_output=output_error(Q, W, stats))


def output_error(Q: QTensor, W: Tensor, stats: Stats) -> float:
    """The relative error of a linear's output, tr(E·H·Eᵀ)/tr(W·H·Wᵀ); six digits are enough for a report."""
    return Q.error(W, None if stats.gram is None else stats.gram.float()).rel_mse


class _Watched:
    """A method whose Steps of the kind "damping" are kept for the report."""

    def __init__(self, method: Method):
        self.method, self.name, self.needs, self.note = method, method.name, method.needs, ""

    def steps(self, *args: Any, **kwargs: Any) -> Steps[QTensor]:
        """The method's own Steps."""
        steps = self.method.steps(*args, **kwargs)
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                return stop.value
            if step.name == "damping":
                self.note = f"XᵀX was not positive definite: damping raised to {step.error:g}"
            yield step
