"""Makes data/records/{gptq,awq}_calibration.json, lessons 05 and 07: a method by calibration text and size.

Each cell quantizes every linear, with what its quantized predecessors send it, and reads the same britannica pages.

python scripts/make_record_calibration.py [--method gptq|awq] [--windows 8] [--threads 1] [--resume]     an hour each
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qlab
from qlab.calibration import Calibration, calibration
from qlab.errors import QlabError
from qlab.evaluate import Evaluation, evaluate
from qlab.records import load_record, provenance, save_record
from qlab.report import RunReport

TEXT, WINDOW = "britannica", 512
SEQLEN = 128  # so that Hamlet, 52,754 tokens, still holds 256 windows
FIRST = "model.layers.0.self_attn.q_proj"  # its error alone can be computed again in seconds


@dataclass(frozen=True)
class Cell:
    """One model of the record; `text` None: no calibration."""

    method: str = "gptq"
    text: str | None = "shakespeare"
    samples: int = 64
    seed: int = 0
    spec: str = "int3-g128-asym"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Every setting, so that no two cells share a name."""
        options = "".join(f" {key}={value}" for key, value in self.options.items())
        where = f", {self.samples} of {self.text}, seed {self.seed}" if self.text else ""
        return f"{self.method}{options} {self.spec}{where}"


SIZES = (16, 64, 256)
DOMAINS = ("shakespeare", "pydoc", "mixture", "other pages")
CELLS = {
    "gptq": (
        Cell("rtn", None),
        Cell(),
        Cell("rtn", None, spec="int4-g128-asym"),
        Cell(spec="int4-g128-asym"),
        *(Cell(text=text, samples=n) for n in SIZES for text in DOMAINS if (n, text) != (64, DOMAINS[0])),
        *(Cell(options=options) for options in ({"act_order": "none"}, {"act_order": "desc"}, {"alpha": 0.25})),
        *(Cell(text=text, options={"damp": 1.0}) for text in ("shakespeare", "pydoc", "other pages")),
        Cell(text="pydoc", options={"damp": 0.1}),
        *(Cell(samples=n, seed=seed) for seed in (1, 2) for n in (16, 64)),
    ),
    "awq": (
        *(Cell("awq", text, n) for n in (16, 64) for text in ("shakespeare", "pydoc")),
        Cell("awq", "other pages"),
    ),
}


def windows(tokenizer: Any, cell: Cell, unread: Tensor) -> Calibration | None:
    """What a cell calibrates on; "mixture" is half Hamlet and half pydoc, "other pages" are the `unread` ones."""

    def draw(text: str | Path, samples: int) -> Tensor:
        return calibration(tokenizer, text, samples=samples, seqlen=SEQLEN, seed=cell.seed).ids

    if cell.text is None:
        return None
    if cell.text == "mixture":
        halves = [draw(text, cell.samples // 2) for text in ("shakespeare", "pydoc")]
        return Calibration(torch.cat(halves), cell.text, cell.seed)
    if cell.text != "other pages":
        return Calibration(draw(cell.text, cell.samples), cell.text, cell.seed)
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages.txt"
        pages.write_text(tokenizer.decode(unread), encoding="utf-8")
        return Calibration(draw(pages, cell.samples), cell.text, cell.seed)


def row(cell: Cell, report: RunReport, result: Evaluation) -> dict[str, Any]:
    """One line of the record; `nll` is the sum of the losses of each window, in nats."""
    assert result.token_losses is not None
    measured = {k: getattr(result, k) for k in ("perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean", "top1_agreement")}
    cost = {"bits_per_weight": report.bits_per_weight, "rel_mse": report.rel_mse, "seconds": report.seconds}
    return {
        "name": cell.name, "method": cell.method, "options": cell.options, "spec": cell.spec, "text": cell.text,
        "samples": cell.samples if cell.text else None, "seed": cell.seed if cell.text else None,
        **four_digits(cost | layer_errors(report) | measured),
        "damping_raised": sum(bool(layer.note) for layer in report.rows),
        "nll": [round(s, 3) for s in result.token_losses.double().sum(1).tolist()],
    }  # fmt: skip


def layer_errors(report: RunReport) -> dict[str, float]:
    """Mean relative output error on the calibration text, of the method and of RTN; and that of the first linear."""
    ours = [layer.rel_output for layer in report.rows if layer.rel_output is not None]
    theirs = [layer.rtn_output for layer in report.rows if layer.rtn_output is not None]
    if not ours:
        return {}
    first = next(layer.rel_output for layer in report.rows if layer.layer == FIRST)
    assert first is not None
    return {"rel_output": sum(ours) / len(ours), "rtn_output": sum(theirs) / len(theirs), "first_output": first}


def four_digits(values: dict[str, float]) -> dict[str, float]:
    """What survives other thread counts and instruction sets."""
    return {k: float(f"{v:.4g}") for k, v in values.items()}


def measure(loaded: Any, ids: Tensor, unread: Tensor) -> Callable[[Cell], dict[str, Any]]:
    """A function that makes the row of a cell."""
    model: nn.Module = loaded.model

    def one(cell: Cell) -> dict[str, Any]:
        recipe = qlab.Recipe.of(cell.spec, cell.method, **cell.options)
        quantized, report = qlab.quantized_copy(model, recipe, windows(loaded.tokenizer, cell, unread), progress=False)
        result = evaluate(quantized, ids, reference=model, window=WINDOW, token_losses=True, progress=False)
        return row(cell, report, result)

    return one


def kept(name: str, evaluated: int) -> list[dict[str, Any]]:
    """Rows of an unfinished run on the same text that need not be measured again."""
    try:
        old: dict[str, Any] = load_record(name)
    except QlabError:  # nothing to resume
        return []
    return old["rows"] if old["text"]["tokens"] == evaluated else []


def main() -> None:
    """Measure cell by cell and write the record after each, so that a stopped run can be resumed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", choices=CELLS, default="gptq")
    parser.add_argument("--windows", type=int, default=8, help=f"windows of {WINDOW} tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="keep the rows of an unfinished run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = qlab.load("reference")
    pages = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text)
    ids, unread = pages[: options.windows * WINDOW], pages[options.windows * WINDOW :]
    name, cells = f"{options.method}_calibration", CELLS[options.method]
    rows = {r["name"]: r for r in kept(name, len(ids))} if options.resume else {}
    base = evaluate(loaded.model, ids, window=WINDOW, progress=False)
    rows["reference"] = {"name": "reference", "method": "none", **four_digits({"perplexity": base.perplexity})}
    one = measure(loaded, ids, unread)
    for number, cell in enumerate(cells, 1):
        if cell.name not in rows:
            rows[cell.name] = one(cell)
            save_record(name, record(options.method, options.windows, len(ids), rows))
            print(
                f"{number} of {len(cells)}: {cell.name}: {rows[cell.name]['perplexity']}", file=sys.stderr, flush=True
            )


def record(method: str, count: int, evaluated: int, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record as it stands, cells in their own order whatever order they were measured in."""
    names = ["reference", *(cell.name for cell in CELLS[method])]
    return {
        "made": provenance(f"python scripts/make_record_calibration.py --method {method} --windows {count}"),
        "about": "every linear quantized; embeddings and norms stay; other pages: those of the text not evaluated on",
        "text": {"name": TEXT, "tokens": evaluated, "window": WINDOW, "scored_per_window": WINDOW - 1},
        "seqlen": SEQLEN,
        "rows": [rows[name] for name in names if name in rows],
    }


if __name__ == "__main__":
    main()
