"""Makes data/records/peers.json: our 4-bit models beside those of GPTQModel, llm-compressor and AutoRound.

All are int4-g64-sym, calibrated on the same 32 × 512 tokens, and read the same britannica pages, through qlab alone.

python scripts/make_record_peers.py --ids FILE                    write the calibration tokens, then run run_peer.py
python scripts/make_record_peers.py [--resume] FOLDER...          measure those folders (beside each its .peer.json)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import qlab
from qlab.calibration import Calibration, calibration
from qlab.errors import QlabError
from qlab.evaluate import evaluate
from qlab.records import load_record, provenance, save_record

NAME = "peers"
SPEC, TEXT, CALIBRATION, SAMPLES, WINDOW, WINDOWS = "int4-g64-sym", "britannica", "shakespeare", 32, 512, 40
ROADS: dict[str, tuple[str, dict[str, Any]]] = {
    "rtn": ("rtn", {}),
    "gptq": ("gptq", {}),
    "awq+gptq": ("awq+gptq", {}),
    "awq+gptq with damp 0.3": ("awq+gptq", {"damp": 0.3}),
    "awq+gptq with mse": ("awq+gptq", {"mse": True}),
}


def measured(model: torch.nn.Module, loaded: Any, ids: torch.Tensor) -> dict[str, float]:
    """Distances to the reference, as they survive other machines; standard errors clustered by window."""
    result = evaluate(model, ids, reference=loaded.model, window=WINDOW, progress=False)
    keys = ("perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean", "kl_se", "kl_p999", "top1_agreement")
    return {key: float(f"{getattr(result, key):.4g}") for key in keys}


def ours(name: str, loaded: Any, drawn: Calibration, ids: torch.Tensor) -> dict[str, Any]:
    """A row of this library; its versions are those of the record."""
    road, options = ROADS[name]
    recipe = qlab.Recipe.of(SPEC, road, **options)
    start = time.perf_counter()
    model, report = qlab.quantized_copy(loaded.model, recipe, drawn, progress=False)
    seconds = round(time.perf_counter() - start)
    bits = float(f"{report.bits_per_weight:.4g}")
    return {"name": f"qlab {name}", "tool": "qlab", "options": {"road": road, **options}, "bits_per_weight": bits,
            "seconds": seconds, **measured(model, loaded, ids)}  # fmt: skip


def theirs(folder: Path, loaded: Any, ids: torch.Tensor) -> dict[str, Any]:
    """A row of another tool's folder, opened as any user would."""
    about = json.loads(Path(f"{folder}.peer.json").read_text())
    opened = folder if (folder / "config.json").exists() else next(folder.iterdir())
    return {"name": about["tool"], **about, **measured(qlab.load(opened).model, loaded, ids)}


def kept(resume: bool) -> dict[str, dict[str, Any]]:
    """Rows of an unfinished run."""
    try:
        return {row["name"]: row for row in load_record(NAME)["rows"]} if resume else {}
    except QlabError:  # nothing to resume
        return {}


def main() -> None:
    """Write the calibration tokens, or measure model by model and write the record after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="quantized folders of other tools")
    parser.add_argument("--ids", type=Path, help="write the calibration tokens here, and stop")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--roads", default=",".join(ROADS), help="of this library's roads, with commas")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an unfinished run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = qlab.load("reference")
    drawn = calibration(loaded.tokenizer, CALIBRATION, samples=SAMPLES, seqlen=WINDOW)
    if options.ids:
        save_file({"ids": drawn.ids}, options.ids)
        return
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, WINDOWS * WINDOW)
    rows = kept(options.resume)
    jobs: dict[str, Any] = {}
    for folder in options.folders:
        jobs[json.loads(Path(f"{folder}.peer.json").read_text())["tool"]] = (theirs, folder, loaded, ids)
    jobs |= {f"qlab {name}": (ours, name, loaded, drawn, ids) for name in options.roads.split(",") if name}
    for name, (make, *arguments) in jobs.items():
        if name not in rows:
            rows[name] = make(*arguments)
            save_record(NAME, record(rows))
            print(f"{name}: KL {rows[name]['kl_mean']} ± {rows[name]['kl_se']}", file=sys.stderr, flush=True)


def record(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The record as it stands, least KL first."""
    return {
        "made": provenance("python scripts/make_record_peers.py FOLDER..."),
        "about": f"{SPEC}, {SAMPLES} × {WINDOW} tokens of {CALIBRATION}, seed 0; embeddings, norms, head stay",
        "text": {"name": TEXT, "tokens": WINDOWS * WINDOW, "window": WINDOW, "scored_per_window": WINDOW - 1},
        "rows": sorted(rows.values(), key=lambda row: row["kl_mean"]),
    }


if __name__ == "__main__":
    main()
