"""Makes data/records/imatrix.json, lesson 09: what an importance matrix does to GGUF files of few bits.

reference-768 at each type, without a matrix and with one of either text, read on the same windows of a third text; a
window's mean KL is kept, so that two files can be compared window by window.

python scripts/make_record_imatrix.py [--files FOLDER] [--windows 16] [--threads 1] [--resume]     half an hour
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import qlab
from qlab.calibration import calibration
from qlab.convert import importance, to_gguf_file
from qlab.errors import QlabError
from qlab.evaluate import Evaluation, evaluate_many
from qlab.files.imatrix import ImportanceMatrix, read_imatrix, write_imatrix
from qlab.records import load_record, provenance, save_record

NAME, MODEL, TEXT, WINDOW, SAMPLES = "imatrix", "reference-768", "britannica", 512, 32
TYPES, MATRICES = ("Q4_K_M", "Q3_K_M", "Q2_K"), ("none", "shakespeare", "pydoc")
CELLS = tuple((type_, matrix) for type_ in TYPES for matrix in MATRICES)


def matrix_of(files: Path, text: str, tokenizer: Any) -> ImportanceMatrix | None:
    """The importance matrix of a text, computed unless it is there."""
    if text == "none":
        return None
    path = files / f"{MODEL}-{text}.imatrix.gguf"
    if not path.exists():
        drawn = calibration(tokenizer, text, samples=SAMPLES, seqlen=WINDOW)
        write_imatrix(importance(MODEL, drawn, progress=False), path)
    return read_imatrix(path)


def file_of(files: Path, type_: str, text: str, tokenizer: Any) -> Path:
    """The converted file, written unless it is there."""
    path = files / (f"{MODEL}-{type_}.gguf" if text == "none" else f"{MODEL}-{type_}-{text}.gguf")
    if not path.exists():
        to_gguf_file(MODEL, path, type_, imatrix=matrix_of(files, text, tokenizer), progress=False)
    return path


def row(type_: str, text: str, bits: float, result: Evaluation) -> dict[str, Any]:
    """One line of the record; `kl` and `nll` are the means of each window."""
    assert result.token_kl is not None and result.token_losses is not None
    keys = ("perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean", "kl_se", "top1_agreement")
    measured = {"bits_per_weight": bits} | {key: getattr(result, key) for key in keys}
    return {
        "type": type_, "matrix": text, **{key: float(f"{value:.4g}") for key, value in measured.items()},
        "kl": [float(f"{x:.4g}") for x in result.token_kl.double().mean(1).tolist()],
        "nll": [float(f"{x:.5g}") for x in result.token_losses.double().mean(1).tolist()],
    }  # fmt: skip


def rows_of(files: Path, type_: str, texts: list[str], loaded: qlab.LoadedModel, ids: torch.Tensor) -> dict[str, Any]:
    """Rows of one type by matrix: its files in step, so that the float model runs once a window."""
    opened = {text: qlab.load(file_of(files, type_, text, loaded.tokenizer)) for text in texts}
    models = {text: file.model for text, file in opened.items()}
    results = evaluate_many(models, ids, reference=loaded.model, window=WINDOW, token_losses=True, progress=False)
    return {text: row(type_, text, opened[text].cost["bits_per_weight"], results[text]) for text in texts}


def paired(row: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, float]:
    """Mean KL with the matrix minus without, and its standard error: windows are paired, and independent."""
    d = torch.tensor(row["kl"], dtype=torch.float64) - torch.tensor(plain["kl"], dtype=torch.float64)
    found = {"kl_change": d.mean(), "kl_change_se": d.std() / len(d) ** 0.5}
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def kept(resume: bool, tokens: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of an unfinished run on the same text."""
    try:
        old: dict[str, Any] = load_record(NAME) if resume else {"text": {"tokens": None}}
    except QlabError:  # nothing to resume
        return {}
    return {(r["type"], r["matrix"]): r for r in old["rows"]} if old["text"]["tokens"] == tokens else {}


def record(windows: int, rows: Mapping[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """The record as it stands, cells in their own order."""
    found = []
    for type_, matrix in CELLS:
        if (type_, matrix) in rows:
            change = paired(rows[type_, matrix], rows[type_, "none"]) if matrix != "none" else {}
            found.append(rows[type_, matrix] | change)
    return {
        "made": provenance(f"python scripts/make_record_imatrix.py --windows {windows}"),
        "about": f"{MODEL}; importance matrices of {SAMPLES} × {WINDOW} tokens, seed 0; kl_change is paired by window",
        "text": {"name": TEXT, "tokens": windows * WINDOW, "window": WINDOW, "scored_per_window": WINDOW - 1},
        "rows": found,
    }


def main() -> None:
    """Measure type by type and write the record after each, so that a stopped run can be resumed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=Path, help="where converted files are kept and reused")
    parser.add_argument("--windows", type=int, default=16, help=f"windows of {WINDOW} tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="keep the rows of an unfinished run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = qlab.load(MODEL)
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, options.windows * WINDOW)
    rows = kept(options.resume, len(ids))
    with tempfile.TemporaryDirectory() as scratch:
        files: Path = options.files or Path(scratch)
        files.mkdir(parents=True, exist_ok=True)
        for type_ in TYPES:
            missing = [text for text in MATRICES if (type_, text) not in rows]
            if missing:
                found = rows_of(files, type_, missing, loaded, ids)
                rows |= {(type_, text): found[text] for text in missing}
                save_record(NAME, record(options.windows, rows))
                print(f"{type_}: KL {[rows[type_, t]['kl_mean'] for t in MATRICES]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
