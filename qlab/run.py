"""The driver: a recipe applied to a model, and a report of what happened to every layer.

Data-free methods need the weights alone. Methods that need statistics run block by block: each block sees the inputs
that its quantized predecessors really produce, and only one block's statistics are held at a time.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from qlab.blocks import BlockStream
from qlab.calibration import Calibration
from qlab.errors import QlabError
from qlab.methods import Method, get_method, quantize
from qlab.nn import QLinear, packed_bytes
from qlab.progress import track
from qlab.qtensor import QTensor, check_finite
from qlab.recipes import LayerPlan, Recipe, Resolution
from qlab.spec import QuantSpec
from qlab.stats import Stats
from qlab.step import Steps


@dataclass(frozen=True)
class LayerReport:
    """What happened to one linear. Sizes in bytes; rel_mse is Σ(w − w_hat)²/Σw², None where skipped.

    With calibration, rel_output and rtn_output are tr(E·H·Eᵀ)/tr(W·H·Wᵀ) of the method and of plain rounding: the
    relative error of the layer's output on the calibration text. note: what the method had to do (raise damping).
    """

    layer: str
    status: str
    weight: str
    bits_per_weight: float
    size_bytes: int
    rel_mse: float | None
    seconds: float
    rel_output: float | None = None
    rtn_output: float | None = None
    note: str = ""

    def shown(self) -> dict[str, Any]:
        """The columns of a table: no wall time, and nothing that calibration did not fill in."""
        columns = {k: v for k, v in asdict(self).items() if k != "seconds"}
        return {k: v for k, v in columns.items() if k not in _CALIBRATED or v not in (None, "")}


_CALIBRATED = ("rel_output", "rtn_output", "note")


@dataclass(frozen=True)
class RunReport:
    """What a run did: every linear, quantized or skipped and why, then the totals.

    size_bytes is the whole model's, as a file would hold it: see `qlab.nn.packed_bytes`.
    """

    recipe: Recipe
    rows: tuple[LayerReport, ...]
    size_bytes: int
    seconds: float
    calibration: str | None = None

    @property
    def bits_per_weight(self) -> float:
        """True bits per weight over the quantized linears, metadata included."""
        quantized = [row for row in self.rows if row.status == "quantized"]
        weights = sum(8 * row.size_bytes / row.bits_per_weight for row in quantized)
        return 8 * sum(row.size_bytes for row in quantized) / weights

    @property
    def rel_mse(self) -> float:
        """Mean relative error over the quantized linears."""
        errors = [row.rel_mse for row in self.rows if row.rel_mse is not None]
        return sum(errors) / len(errors)

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"Quantized with {self.recipe.name}"

    def facts(self) -> dict[str, Any]:
        """The totals."""
        skipped = sum(row.status != "quantized" for row in self.rows)
        calibrated = {"calibration": self.calibration} if self.calibration else {}
        return calibrated | {
            "quantized": len(self.rows) - skipped,
            "skipped": skipped,
            "bits_per_weight": self.bits_per_weight,
            "size_bytes": self.size_bytes,
            "rel_mse": self.rel_mse,
        }

    def table(self) -> list[dict[str, Any]]:
        """One row per linear; wall time is left to `rows`, so that a table of the same run prints the same twice."""
        return [row.shown() for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the totals, the time, and the layers under `rows`."""
        return self.facts() | {"seconds": self.seconds, "rows": [asdict(row) for row in self.rows]}


def quantize_(
    model: nn.Module,
    recipe: Recipe | QuantSpec | str,
    calibration: Calibration | None = None,
    *,
    progress: bool = True,
) -> RunReport:
    """Replace the linears of `model` by QLinears as `recipe` says (a Recipe, or a spec for all), in place.

    Shapes and values of every layer are checked before the first is touched. Methods that need statistics need
    `calibration`, and quantize linears of the model's transformer blocks only. A recipe with passes raises QlabError.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.of(recipe)
    resolution = recipe.resolve(model)
    needs = {plan.name: _needs(plan, calibration) for plan in resolution.layers}
    for plan in resolution.layers:
        if plan.rule.skip is None:
            check_finite(cast(nn.Linear, model.get_submodule(plan.name)).weight, plan.name)
    start = time.perf_counter()
    source = None
    if calibration is None or not any(needs.values()):
        bar = track(resolution.layers, total=len(resolution.layers), label=f"quantize {recipe.name}", enabled=progress)
        rows = tuple(_quantize_layer(model, plan) for plan in bar)
    else:
        rows, source = _block_by_block(model, resolution, needs, calibration, progress), calibration.title
    return RunReport(recipe, rows, packed_bytes(model), time.perf_counter() - start, source)


def quantized_copy(
    model: nn.Module,
    recipe: Recipe | QuantSpec | str,
    calibration: Calibration | None = None,
    *,
    progress: bool = True,
) -> tuple[nn.Module, RunReport]:
    """A quantized model that shares every tensor with `model` but the linears it replaces, and its report."""
    shared = {id(p): p for p in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    return twin, quantize_(twin, recipe, calibration, progress=progress)


def _needs(plan: LayerPlan, calibration: Calibration | None) -> frozenset[str]:
    """The statistics that one layer's method needs; QlabError where they cannot be had."""
    if plan.rule.skip is not None:
        return frozenset()
    if plan.rule.passes:
        raise QlabError(f"passes {', '.join(plan.rule.passes)} for {plan.name}: this driver runs methods only so far")
    needs = get_method(plan.rule.method, **plan.rule.options).needs
    if needs and calibration is None:
        raise QlabError(f"method {plan.rule.method!r} for {plan.name} needs calibration activations: give a "
                        "calibration text, or use a data-free method such as rtn or mse")  # fmt: skip
    return needs


@torch.no_grad()
def _block_by_block(
    model: nn.Module,
    resolution: Resolution,
    needs: dict[str, frozenset[str]],
    calibration: Calibration,
    progress: bool,
) -> tuple[LayerReport, ...]:
    """Observe a block, quantize its linears, send the tokens through it as it is now, and go on to the next."""
    cross = any("cross" in need for need in needs.values())
    stream = BlockStream(model, calibration.ids, float_path=cross)
    plans = {plan.name: plan for plan in resolution.layers}
    prefixes = [f"{stream.name(i)}." for i in range(len(stream.blocks))]
    if outside := [name for name, need in needs.items() if need and not name.startswith(tuple(prefixes))]:
        raise QlabError(f"{outside[0]} lies outside the blocks {stream.path}.*: give it a data-free method, or skip it")
    rows = {name: _quantize_layer(model, p) for name, p in plans.items() if not name.startswith(tuple(prefixes))}
    label = f"quantize {resolution.recipe.name}"
    for i, prefix in track(enumerate(prefixes), total=len(prefixes), label=label, enabled=progress):
        inside = [name for name in plans if name.startswith(prefix)]
        stats = stream.observe(i, (n.removeprefix(prefix) for n in inside if needs[n]), cross)
        for name in inside:
            rows[name] = _quantize_layer(model, plans[name], stats.get(name.removeprefix(prefix)))
        stream.advance(i)
    return tuple(rows[name] for name in plans)


@torch.no_grad()
def _quantize_layer(model: nn.Module, plan: LayerPlan, stats: Stats | None = None) -> LayerReport:
    """Quantize one linear, put its QLinear in place, and say what happened."""
    if plan.rule.weight is None:
        size = 2 * plan.shape[0] * plan.shape[1]
        return LayerReport(plan.name, f"skipped: {plan.rule.skip}", "float", 16.0, size, None, 0.0)
    linear = cast(nn.Linear, model.get_submodule(plan.name))
    W = linear.weight.detach()
    start = time.perf_counter()
    method = _Watched(get_method(plan.rule.method, **plan.rule.options))
    try:
        Q = quantize(W.float(), plan.rule.weight, method, stats=stats, name=plan.name)
    except QlabError as error:
        if plan.name in str(error):
            raise
        raise QlabError(f"{plan.name}: {error}") from error
    model.set_submodule(plan.name, QLinear(Q, linear.bias, plan.rule.input))
    report = LayerReport(
        plan.name, "quantized", str(Q.spec), Q.bits_per_weight, Q.nbytes, Q.error(W).rel_mse,
        time.perf_counter() - start, note=method.note,
    )  # fmt: skip
    if stats is None:
        return report
    rounded = quantize(W.float(), plan.rule.weight)
    ours, theirs = (q.error(W, stats.gram).rel_mse for q in (Q, rounded))
    return replace(report, rel_output=ours, rtn_output=theirs)


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
