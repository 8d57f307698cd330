"""Makes data/records/salient.json, lesson 06: 3-bit rounding with 1% of the input channels kept, or scaled up.

The experiments of AWQ's tables 1 and 2 (arXiv 2306.00978) on the reference: every linear is rounded to int3-g128-asym;
a share of its input channels, chosen by a rule, keeps its 16 bits, or is multiplied by s before rounding and divided
by it afterwards.

python scripts/make_record_salient.py [--windows 8] [--threads 1] [--resume]     ten minutes on one core
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

import qlab
from qlab.blocks import BlockStream
from qlab.calibration import calibration
from qlab.errors import QlabError
from qlab.evaluate import evaluate
from qlab.records import load_record, provenance, save_record

NAME, SPEC = "salient", "int3-g128-asym"
TEXT, CALIBRATION, SAMPLES, WINDOW = "britannica", "shakespeare", 16, 512


@dataclass(frozen=True)
class Cell:
    """One model: which share of channels, chosen how; s None keeps them in 16 bits, a number scales them."""

    rule: str = "none"
    share: float = 0.01
    s: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Every setting, so that no two cells share a name."""
        if self.rule == "none":
            return "all rounded"
        how = "in 16 bits" if self.s is None else f"times {self.s:g}"
        return f"{self.share:.1%} by {self.rule}{f' {self.seed}' if self.seed else ''} {how}"


CELLS = (
    Cell(),
    Cell("activation"), Cell("weight"), Cell("random"), Cell("random", seed=1),
    Cell("activation", 0.001), Cell("activation", 0.03),
    *(Cell("activation", s=s) for s in (1.25, 1.5, 2.0, 4.0)),
)  # fmt: skip


def chosen(cell: Cell, W: Tensor, mean_abs: Tensor) -> Tensor:
    """The channels of one linear W [out, in], at least one: by mean |x|, by the norm of their column, or drawn."""
    n = W.shape[1]
    generator = torch.Generator().manual_seed(cell.seed)
    by = {"activation": mean_abs, "weight": W.norm(dim=0), "random": torch.rand(n, generator=generator)}[cell.rule]
    return by.argsort(descending=True, stable=True)[: max(1, round(cell.share * n))]


def treated(cell: Cell, W: Tensor, mean_abs: Tensor) -> Tensor:
    """W_hat [out, in] of one linear."""
    if cell.rule == "none":
        return qlab.quantize(W, SPEC).dequantize()
    salient = chosen(cell, W, mean_abs)
    s = torch.ones(W.shape[1])
    s[salient] = cell.s or 1.0
    W_hat = qlab.quantize(W * s, SPEC).dequantize() / s
    if cell.s is None:
        W_hat[:, salient] = W[:, salient]
    return W_hat


def loudness(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """Mean |x| of every linear's input in the float model, by the linear's name."""
    stream = BlockStream(model, ids)
    found: dict[str, Tensor] = {}
    for i, block in enumerate(stream.blocks):
        names = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
        found |= {f"{stream.name(i)}.{n}": stats.mean_abs.float() for n, stats in stream.observe(i, names).items()}
        stream.advance(i)
    return found


def row(cell: Cell, model: nn.Module, mean_abs: Mapping[str, Tensor], ids: Tensor) -> dict[str, Any]:
    """One line of the record."""
    twin = copy.deepcopy(model)
    for name, loud in mean_abs.items():
        linear = cast(nn.Linear, twin.get_submodule(name))
        linear.weight.data = treated(cell, linear.weight.detach().float(), loud).to(linear.weight.dtype)
    result = evaluate(twin, ids, reference=model, window=WINDOW, progress=False)
    keys = ("perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean", "kl_se", "top1_agreement")
    measured = {key: float(f"{getattr(result, key):.4g}") for key in keys}
    return {"name": cell.name, "rule": cell.rule, "share": cell.share, "s": cell.s, "seed": cell.seed, **measured}


def kept(resume: bool, tokens: int) -> dict[str, dict[str, Any]]:
    """Rows of an unfinished run on the same text."""
    try:
        old: dict[str, Any] = load_record(NAME) if resume else {"text": {"tokens": None}}
    except QlabError:  # nothing to resume
        return {}
    return {r["name"]: r for r in old["rows"]} if old["text"]["tokens"] == tokens else {}


def main() -> None:
    """Measure cell by cell and write the record after each, so that a stopped run can be resumed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=8, help=f"windows of {WINDOW} tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="keep the rows of an unfinished run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = qlab.load("reference")
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, options.windows * WINDOW)
    mean_abs = loudness(loaded.model, calibration(loaded.tokenizer, CALIBRATION, samples=SAMPLES, seqlen=WINDOW).ids)
    rows = kept(options.resume, len(ids))
    for number, cell in enumerate(CELLS, 1):
        if cell.name not in rows:
            rows[cell.name] = row(cell, loaded.model, mean_abs, ids)
            save_record(NAME, record(options.windows, rows))
            print(
                f"{number} of {len(CELLS)}: {cell.name}: {rows[cell.name]['perplexity']}", file=sys.stderr, flush=True
            )


def record(count: int, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The record as it stands, cells in their own order."""
    return {
        "made": provenance(f"python scripts/make_record_salient.py --windows {count}"),
        "about": f"every linear {SPEC}; salience from {SAMPLES} × {WINDOW} tokens of {CALIBRATION}, full precision",
        "text": {"name": TEXT, "tokens": count * WINDOW, "window": WINDOW, "scored_per_window": WINDOW - 1},
        "rows": [rows[cell.name] for cell in CELLS if cell.name in rows],
    }


if __name__ == "__main__":
    main()
