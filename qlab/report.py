"""Reports: what a run did to every linear of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from qlab.recipes import Recipe


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
