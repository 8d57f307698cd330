"""The driver: a recipe applied to a model, and a report of what happened to every layer."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn

from qlab.errors import QlabError
from qlab.methods import get_method, quantize
from qlab.nn import QLinear, packed_bytes
from qlab.progress import track
from qlab.qtensor import check_finite
from qlab.recipes import LayerPlan, Recipe, Resolution
from qlab.spec import QuantSpec


@dataclass(frozen=True)
class LayerReport:
    """What happened to one linear. Sizes in bytes; rel_mse is Σ(w − w_hat)²/Σw², None where skipped."""

    layer: str
    status: str
    weight: str
    bits_per_weight: float
    size_bytes: int
    rel_mse: float | None
    seconds: float


@dataclass(frozen=True)
class RunReport:
    """What a run did: every linear, quantized or skipped and why, then the totals.

    size_bytes is the whole model's, as a file would hold it: see `qlab.nn.packed_bytes`.
    """

    recipe: Recipe
    rows: tuple[LayerReport, ...]
    size_bytes: int
    seconds: float

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
        return {
            "quantized": len(self.rows) - skipped,
            "skipped": skipped,
            "bits_per_weight": self.bits_per_weight,
            "size_bytes": self.size_bytes,
            "rel_mse": self.rel_mse,
        }

    def table(self) -> list[dict[str, Any]]:
        """One row per linear; wall time is left to `rows`, so that a table of the same run prints the same twice."""
        return [{k: v for k, v in asdict(row).items() if k != "seconds"} for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the totals, the time, and the layers under `rows`."""
        return self.facts() | {"seconds": self.seconds, "rows": [asdict(row) for row in self.rows]}


def quantize_(model: nn.Module, recipe: Recipe | QuantSpec | str, *, progress: bool = True) -> RunReport:
    """Replace the linears of `model` by QLinears as `recipe` says (a Recipe, or a spec for all), in place.

    Shapes and values of every layer are checked before the first is touched. Data-free methods only: a method that
    needs calibration statistics, or a recipe with passes, raises QlabError.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.of(recipe)
    resolution = recipe.resolve(model)
    _check_data_free(resolution)
    for plan in resolution.layers:
        if plan.rule.skip is None:
            check_finite(cast(nn.Linear, model.get_submodule(plan.name)).weight, plan.name)
    start = time.perf_counter()
    bar = track(resolution.layers, total=len(resolution.layers), label=f"quantize {recipe.name}", enabled=progress)
    rows = tuple(_quantize_layer(model, plan) for plan in bar)
    return RunReport(recipe, rows, packed_bytes(model), time.perf_counter() - start)


def quantized_copy(
    model: nn.Module, recipe: Recipe | QuantSpec | str, *, progress: bool = True
) -> tuple[nn.Module, RunReport]:
    """A quantized model that shares every tensor with `model` but the linears it replaces, and its report."""
    shared = {id(p): p for p in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    return twin, quantize_(twin, recipe, progress=progress)


def _check_data_free(resolution: Resolution) -> None:
    for plan in resolution.layers:
        needs = get_method(plan.rule.method, **plan.rule.options).needs
        if plan.rule.skip is None and (needs or plan.rule.passes):
            what = "passes " + ", ".join(plan.rule.passes) if plan.rule.passes else f"method {plan.rule.method!r}"
            raise QlabError(f"{what} for {plan.name} needs calibration activations: this driver is data-free; "
                            "use a data-free method such as rtn or mse")  # fmt: skip


@torch.no_grad()
def _quantize_layer(model: nn.Module, plan: LayerPlan) -> LayerReport:
    """Quantize one linear, put its QLinear in place, and say what happened."""
    if plan.rule.weight is None:
        size = 2 * plan.shape[0] * plan.shape[1]
        return LayerReport(plan.name, f"skipped: {plan.rule.skip}", "float", 16.0, size, None, 0.0)
    linear = cast(nn.Linear, model.get_submodule(plan.name))
    W = linear.weight.detach()
    start = time.perf_counter()
    method = get_method(plan.rule.method, **plan.rule.options)
    Q = quantize(W.float(), plan.rule.weight, method, name=plan.name)
    model.set_submodule(plan.name, QLinear(Q, linear.bias, plan.rule.input))
    seconds = time.perf_counter() - start
    return LayerReport(plan.name, "quantized", str(Q.spec), Q.bits_per_weight, Q.nbytes, Q.error(W).rel_mse, seconds)
