"""Several recipes on one model and one text, side by side: the main job of the workbench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from qlab.calibration import Calibration
from qlab.errors import QlabError
from qlab.evaluate import Evaluation, evaluate_many
from qlab.nn import packed_bytes
from qlab.recipes import Recipe
from qlab.report import RunReport
from qlab.run import quantized_copy

FLOAT_BITS = 16.0  # what the reference is stored in


@dataclass(frozen=True)
class Comparison:
    """One row per recipe, the unquantized model first: cost (bits, bytes) and loss (perplexity, KL, top-1)."""

    model: str
    rows: tuple[dict[str, Any], ...]
    reports: dict[str, RunReport]
    evaluations: dict[str, Evaluation]

    @property
    def title(self) -> str:
        """What was compared, on how much text."""
        base = self.rows[0]
        return f"{self.model}: {base['tokens']:,} tokens scored in windows of {base['window']} ({base['protocol']})"

    def facts(self) -> dict[str, Any]:
        """Nothing beyond the table."""
        return {}

    def table(self) -> list[dict[str, Any]]:
        """The columns people compare."""
        columns = ("name", "bits_per_weight", "size_bytes", "perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean",
                   "top1_agreement")  # fmt: skip
        return [{c: row[c] for c in columns} for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the rows in full."""
        return {"model": self.model, "rows": list(self.rows)}


def compare(
    model: nn.Module,
    ids: Tensor,
    recipes: Sequence[Recipe | str],
    *,
    name: str = "float",
    window: int = 512,
    protocol: str = "windows",
    bos_id: int | None = None,
    calibration: Calibration | None = None,
    progress: bool = True,
) -> Comparison:
    """Quantize copies of `model` by each recipe (or spec name) and evaluate all of them in one pass over `ids`.

    `calibration` serves the methods that need one. The copies share embeddings and norms, so each costs one byte a
    weight; the float model runs once per window.
    """
    copies: dict[str, nn.Module] = {name: model}
    reports: dict[str, RunReport] = {}
    for recipe in [r if isinstance(r, Recipe) else Recipe.of(r) for r in recipes]:
        if recipe.name in copies:
            raise QlabError(f"two rows would be called {recipe.name!r}: drop one, or give the recipes different names")
        copies[recipe.name], reports[recipe.name] = quantized_copy(model, recipe, calibration, progress=progress)
    evaluations = evaluate_many(
        copies, ids, reference=model, window=window, protocol=protocol, bos_id=bos_id, progress=progress
    )
    rows = tuple(_row(key, copies[key], reports.get(key), evaluations[key]) for key in copies)
    return Comparison(name, rows, reports, evaluations)


def _row(name: str, model: nn.Module, report: RunReport | None, evaluation: Evaluation) -> dict[str, Any]:
    bits = report.bits_per_weight if report else FLOAT_BITS
    cost = {"name": name, "bits_per_weight": bits, "size_bytes": packed_bytes(model)}
    return cost | {"rel_mse": report.rel_mse if report else 0.0} | evaluation.to_dict()
