"""Makes data/records/ranking.json, lesson 00: what each format and method costs and loses on the reference model.

python scripts/make_record_ranking.py [--windows 8] [--threads 1]     about 6 minutes on one core
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from torch import nn

import qlab
from qlab.evaluate import Evaluation, evaluate_many
from qlab.records import provenance, save_record

TEXT, WINDOW = "britannica", 512
# (spec, method), all data-free: the first bits of the name are what an advertisement would quote
RUNS = (
    ("int8-row-sym", "rtn"),
    ("int8-tensor-sym", "rtn"),
    ("int6-tensor-sym", "rtn"),
    ("int5-row-sym", "rtn"),
    ("int4-g32-asym", "rtn"),
    ("int4-g128-asym", "rtn"),
    ("int4-g128-asym", "mse"),
    ("int4-row-sym", "rtn"),
    ("int4-row-sym", "mse"),
    ("nf4-g64-dq", "rtn"),
    ("mxfp4", "rtn"),
    ("int3-g32-asym", "rtn"),
    ("int3-g128-asym", "rtn"),
    ("int3-g128-asym", "mse"),
)
# a fifth of the candidates that the method tries by default: steps of 5% instead of 1%, and minutes saved
OPTIONS: dict[str, dict[str, Any]] = {"rtn": {}, "mse": {"grid": 20}}


def label(spec: str, method: str) -> str:
    """How a run is called in the lesson: its spec, behind its method unless that is plain rounding."""
    return spec if method == "rtn" else f"{method} {spec}"


def build(reference: nn.Module, runs: tuple[tuple[str, str], ...]) -> tuple[dict[str, nn.Module], dict[str, dict]]:
    """The quantized copies by label, and for each what it costs."""
    models: dict[str, nn.Module] = {}
    costs: dict[str, dict[str, Any]] = {}
    for spec, method in runs:
        name = label(spec, method)
        models[name], report = qlab.quantized_copy(reference, qlab.Recipe.of(spec, method, **OPTIONS[method]))
        cost = {"bits_per_weight": report.bits_per_weight, "rel_mse": report.rel_mse}
        costs[name] = {"spec": spec, "method": method, "options": OPTIONS[method]} | four_digits(cost)
    return models, costs


def row(name: str, cost: dict[str, Any], result: Evaluation) -> dict[str, Any]:
    """One line of the record; `nll` is the sum of the losses of each window, in nats."""
    assert result.token_losses is not None
    measured = {k: getattr(result, k) for k in ("perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean", "top1_agreement")}
    nll = [round(s, 3) for s in result.token_losses.double().sum(1).tolist()]
    return {"name": name} | cost | four_digits(measured) | {"nll": nll}


def four_digits(values: dict[str, float]) -> dict[str, float]:
    """What survives other thread counts and instruction sets."""
    return {k: float(f"{v:.4g}") for k, v in values.items()}


def main() -> None:
    """Quantize, evaluate in one pass over the text, and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=8, help=f"windows of {WINDOW} tokens")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = qlab.load("reference")
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, options.windows * WINDOW)
    models, costs = build(loaded.model, RUNS)
    everyone = {"reference": loaded.model} | models
    results = evaluate_many(everyone, ids, reference=loaded.model, window=WINDOW, token_losses=True)
    costs = {"reference": {"spec": "float32", "method": "none", "bits_per_weight": 16.0, "rel_mse": 0.0}} | costs
    record = {
        "made": provenance(f"python scripts/make_record_ranking.py --windows {options.windows}"),
        "about": "every linear layer quantized without calibration data; embeddings and norms stay as they are",
        "text": {"name": TEXT, "tokens": len(ids), "window": WINDOW, "scored_per_window": WINDOW - 1},
        "rows": [row(name, costs[name], results[name]) for name in everyone],
    }
    print(save_record("ranking", record).name, file=sys.stderr)


if __name__ == "__main__":
    main()
