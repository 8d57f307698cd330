"""Quantizing a model in memory: a recipe applied to its linears, and a report of what happened to every one."""

from __future__ import annotations

import copy
import time
from typing import cast

import torch
from torch import nn

from qlab.blockwise import Blockwise, quantize_layer
from qlab.calibration import Calibration
from qlab.nn import packed_bytes
from qlab.progress import track
from qlab.qtensor import check_finite
from qlab.recipes import Recipe
from qlab.report import RunReport
from qlab.spec import QuantSpec


@torch.no_grad()
def quantize_(
    model: nn.Module,
    recipe: Recipe | QuantSpec | str,
    calibration: Calibration | None = None,
    *,
    true_sequential: bool = False,
    progress: bool = True,
) -> RunReport:
    """Replace the linears of `model` by QLinears as `recipe` says (a Recipe, or a spec for all), in place.

    Shapes and values of every layer are checked before the first is touched. Methods and passes that need statistics
    need `calibration`, and quantize linears of the model's transformer blocks only, block by block.
    true_sequential: see `Blockwise`.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.of(recipe)
    resolution = recipe.resolve(model)
    driver = Blockwise(model, resolution, calibration, true_sequential)
    for plan in resolution.layers:
        if plan.rule.skip is None:
            check_finite(cast(nn.Linear, model.get_submodule(plan.name)).weight, plan.name)
    start = time.perf_counter()
    label = f"quantize {recipe.name}"
    rows = {}
    if not driver.calibrated:
        for plan in track(resolution.layers, total=len(resolution.layers), label=label, enabled=progress):
            rows[plan.name] = quantize_layer(model, plan)
    else:
        rows |= driver.outside()
        for i in track(range(len(driver)), total=len(driver), label=label, enabled=progress):
            rows |= driver.quantize(i)
            driver.advance(i)
    ordered = tuple(rows[plan.name] for plan in resolution.layers)
    return RunReport(recipe, ordered, packed_bytes(model), time.perf_counter() - start, driver.source)


def quantized_copy(
    model: nn.Module,
    recipe: Recipe | QuantSpec | str,
    calibration: Calibration | None = None,
    *,
    true_sequential: bool = False,
    progress: bool = True,
) -> tuple[nn.Module, RunReport]:
    """A quantized model that shares every tensor with `model` but those it changes, and its report."""
    shared = {id(p): p for p in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    return twin, quantize_(twin, recipe, calibration, true_sequential=true_sequential, progress=progress)
