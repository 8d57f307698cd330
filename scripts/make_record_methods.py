"""Makes data/records/methods.json: RTN, GPTQ, AWQ and AWQ+GPTQ at 3 and 4 bits, over three draws of calibration text.

Each cell quantizes every linear by a road on 32 × 512 tokens of Shakespeare and reads the same britannica pages.

python scripts/make_record_methods.py [--windows 41] [--threads 2] [--resume]     two hours on two cores
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import torch

import qlab
from qlab.calibration import calibration
from qlab.errors import QlabError
from qlab.evaluate import evaluate
from qlab.records import load_record, provenance, save_record

NAME = "methods"
TEXT, CALIBRATION, WINDOW = "britannica", "shakespeare", 512
SAMPLES = 32


@dataclass(frozen=True)
class Cell:
    """One quantized model of the record; `seed` draws its calibration windows, None: it needs none."""

    road: str
    spec: str
    seed: int | None = 0

    @property
    def name(self) -> str:
        """Every setting, so that no two cells share a name."""
        return f"{self.road} {self.spec}" + ("" if self.seed is None else f", seed {self.seed}")


SPECS = ("int3-g128-asym", "int4-g128-asym")
ROADS = ("gptq", "awq", "awq+gptq")
CELLS = (
    *(Cell("rtn", spec, None) for spec in SPECS),
    *(Cell(road, spec, seed) for seed in (0, 1, 2) for spec in SPECS for road in ROADS),
)


def row(loaded: Any, ids: torch.Tensor, cell: Cell) -> dict[str, Any]:
    """One line of the record; `nll` is the sum of the losses of each window, in nats."""
    windows = None
    if cell.seed is not None:
        windows = calibration(loaded.tokenizer, CALIBRATION, samples=SAMPLES, seqlen=WINDOW, seed=cell.seed)
    recipe = qlab.Recipe.of(cell.spec, cell.road)
    model, report = qlab.quantized_copy(loaded.model, recipe, windows, progress=False)
    result = evaluate(model, ids, reference=loaded.model, window=WINDOW, token_losses=True, progress=False)
    assert result.token_losses is not None
    keys = ("perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean", "top1_agreement")
    measured = {key: getattr(result, key) for key in keys} | {"bits_per_weight": report.bits_per_weight}
    return {
        "name": cell.name, "road": cell.road, "spec": cell.spec, "seed": cell.seed,
        **{key: float(f"{value:.4g}") for key, value in measured.items()},
        "seconds": round(report.seconds),
        "nll": [round(s, 3) for s in result.token_losses.double().sum(1).tolist()],
    }  # fmt: skip


def versus(row: dict[str, Any], rtn: dict[str, Any]) -> dict[str, float]:
    """Perplexity as a fraction of RTN's, and how many paired standard errors of the mean loss lie between them."""
    d = torch.tensor(rtn["nll"], dtype=torch.float64) - torch.tensor(row["nll"], dtype=torch.float64)
    errors = float(d.mean() / (d.std() / len(d) ** 0.5))
    ratio = row["perplexity"] / rtn["perplexity"]
    return {"of_rtn": float(f"{ratio:.4g}"), "paired_se": float(f"{errors:.4g}")}


def record(count: int, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record as it stands, cells in their own order."""
    rtn = {spec: rows[name] for spec in SPECS if (name := Cell("rtn", spec, None).name) in rows}
    found = [rows[cell.name] for cell in CELLS if cell.name in rows]
    return {
        "made": provenance(f"python scripts/make_record_methods.py --windows {count}"),
        "about": f"every linear quantized, {SAMPLES} × {WINDOW} tokens of {CALIBRATION}; embeddings, norms, head stay",
        "text": {"name": TEXT, "tokens": count * WINDOW, "window": WINDOW, "scored_per_window": WINDOW - 1},
        "rows": [r | (versus(r, rtn[r["spec"]]) if r["road"] != "rtn" and r["spec"] in rtn else {}) for r in found],
    }


def kept(resume: bool, count: int) -> dict[str, dict[str, Any]]:
    """Rows of an unfinished run on the same text."""
    try:
        old: dict[str, Any] = load_record(NAME) if resume else {"text": {"tokens": None}}
    except QlabError:  # nothing to resume
        return {}
    names = {cell.name for cell in CELLS}
    return {r["name"]: r for r in old["rows"] if r["name"] in names} if old["text"]["tokens"] == count * WINDOW else {}


def main() -> None:
    """Measure cell by cell and write the record after each, so that a stopped run can be resumed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=41, help=f"windows of {WINDOW} tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="keep the rows of an unfinished run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = qlab.load("reference")
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, options.windows * WINDOW)
    rows = kept(options.resume, options.windows)
    for number, cell in enumerate(CELLS, 1):
        if cell.name not in rows:
            rows[cell.name] = row(loaded, ids, cell)
            save_record(NAME, record(options.windows, rows))
            print(
                f"{number} of {len(CELLS)}: {cell.name}: {rows[cell.name]['perplexity']}", file=sys.stderr, flush=True
            )


if __name__ == "__main__":
    main()
