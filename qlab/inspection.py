"""What the linears of a model look like before anything is done to them, and what a recipe would cost each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qlab.errors import QlabError
from qlab.methods import get_method, quantize
from qlab.qtensor import check_finite
from qlab.recipes import LayerPlan, Recipe


@dataclass(frozen=True)
class Inspection:
    """One row per linear."""

    model: str
    rows: tuple[dict[str, Any], ...]

    @property
    def title(self) -> str:
        """What the table is about."""
        return f"Linear layers of {self.model}"

    def facts(self) -> dict[str, Any]:
        """Totals, and the spec where all layers share one."""
        specs = {row.get("weight") for row in self.rows} - {None}
        shared = {"spec": specs.pop()} if len(specs) == 1 else {}
        return {"linears": len(self.rows), "weights": sum(row["weights"] for row in self.rows)} | shared

    def table(self) -> list[dict[str, Any]]:
        """The rows, less what the shape already says and what is the same in all of them."""
        hidden = {"weights", *(k for k in ("weight",) if len({row.get(k) for row in self.rows}) == 1)}
        return [{k: v for k, v in row.items() if k not in hidden} for row in self.rows]


@torch.no_grad()
def inspect(
    model: nn.Module,
    recipe: Recipe | None = None,
    wanted: Callable[[str], bool] = lambda name: True,
    name: str = "model",
) -> Inspection:
    """Shape, spread and largest outlier of each wanted linear; with a recipe also its bits and its SNR."""
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    if not linears:
        raise QlabError(f"{name} has no nn.Linear: qlab quantizes the linear layers of decoder models")
    if not any(map(wanted, linears)):
        raise QlabError(f"no layer of {name} matches: names look like {next(iter(linears))}")
    plans = {plan.name: plan for plan in recipe.resolve(model).layers} if recipe else {}
    rows = tuple(_row(n, m.weight, plans.get(n)) for n, m in linears.items() if wanted(n))
    return Inspection(name, rows)


def _row(name: str, W: Tensor, plan: LayerPlan | None) -> dict[str, Any]:
    check_finite(W, name)
    rms, absmax = float(W.square().mean().sqrt()), float(W.abs().max())
    row = {"layer": name, "shape": f"{W.shape[0]}×{W.shape[1]}", "weights": W.numel(), "rms": rms, "absmax": absmax,
           "absmax/rms": absmax / rms if rms else 0.0}  # fmt: skip
    if plan is None:
        return row
    if plan.rule.weight is None:
        return row | {"weight": f"skip: {plan.rule.skip}", "bits_per_weight": 16.0, "snr_db": None}
    Q = quantize(W.float(), plan.rule.weight, get_method(plan.rule.method, **plan.rule.options), name=name)
    snr = Q.error(W).snr_db
    return row | {"weight": str(Q.spec), "bits_per_weight": Q.bits_per_weight, "snr_db": snr}
