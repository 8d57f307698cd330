"""Makes data/records/ladder.json, lesson 09: GGUF files from Q8_0 to Q2_K, their size, their loss, their speed.

Every file is written by qlab, read back, and compared with the float model on the same text. Speed is llama.cpp's,
measured last, in rounds over the files of reference-768, so that a busy moment of the machine falls on all of them. It
needs llama-cpp-python to import (scripts/build_llama_cpp.py builds one: put the folder it names on PYTHONPATH); without
it the speeds stay empty, and --resume adds them later.

python scripts/make_record_ladder.py [--files FOLDER] [--windows 8] [--rounds 8] [--threads 1] [--resume]
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import qlab
from qlab.convert import to_gguf_file
from qlab.errors import QlabError
from qlab.evaluate import evaluate
from qlab.records import load_record, provenance, save_record

NAME, TEXT, WINDOW = "ladder", "britannica", 512
TIMED = "reference-768"
"""The model whose files are timed: all their types are what they are called."""
CELLS = (
    *(("reference-768", type_) for type_ in (
        "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q2_K")),
    *(("reference", type_) for type_ in ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")),
)  # fmt: skip
PROMPT, DECODED = 16, 32
"""Tokens that are read before the clock starts, and tokens whose time is taken, one by one."""


def file_of(files: Path, model: str, type_: str) -> Path:
    """The converted file, written unless it is there; what the conversion says lies beside it."""
    path = files / f"{model}-{type_}.gguf"
    about = path.with_suffix(".json")
    if not about.exists():
        path.unlink(missing_ok=True)
        about.write_text(json.dumps(to_gguf_file(model, path, type_, progress=False).to_dict()))
    return path


def row(files: Path, model: str, type_: str, reference: torch.nn.Module, ids: torch.Tensor) -> dict[str, Any]:
    """One line of the record, without its speed."""
    path = file_of(files, model, type_)
    about = json.loads(path.with_suffix(".json").read_text())
    result = evaluate(qlab.load(path).model, ids, reference=reference, window=WINDOW, progress=False)
    keys = ("perplexity", "ppl_ratio", "ppl_ratio_se", "kl_mean", "kl_se", "top1_agreement")
    measured = {"bits_per_weight": about["bits_per_weight"]} | {key: getattr(result, key) for key in keys}
    return {
        "model": model, "type": type_, "size_bytes": about["size_bytes"],
        **{key: float(f"{value:.4g}") for key, value in measured.items()},
        "types": about["types"], "fallbacks": about["fallbacks"], "decode_median": None, "decode_p10": None,
    }  # fmt: skip


def seconds(llama_cpp: Any, path: Path, ids: list[int], threads: int) -> list[float]:
    """How long llama.cpp took for each of `DECODED` tokens, one after the other."""
    model = llama_cpp.Llama(str(path), n_ctx=WINDOW, n_threads=threads, n_threads_batch=threads, verbose=False)
    try:
        model.eval(ids[:PROMPT])
        taken = []
        for token in ids[PROMPT : PROMPT + DECODED]:
            start = time.perf_counter()
            model.eval([token])
            taken.append(time.perf_counter() - start)
    finally:
        model.close()
    return taken


def speeds(files: Path, ids: list[int], threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Tokens a second by cell: the median token's, and those of the slow tenth (p10). Empty without llama.cpp."""
    try:
        llama_cpp = importlib.import_module("llama_cpp")
    except ImportError:
        return {}
    taken: dict[str, list[float]] = {}
    for number in range(rounds):
        for model, type_ in CELLS:
            if model == TIMED:
                new = seconds(llama_cpp, file_of(files, model, type_), ids, threads)
                taken.setdefault(f"{model} {type_}", []).extend(new)
        print(f"speed: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    quantiles = {name: torch.tensor(t).quantile(torch.tensor([0.5, 0.9])) for name, t in taken.items()}
    names = ("decode_median", "decode_p10")
    return {
        name: {k: float(f"{1 / v:.4g}") for k, v in zip(names, q.tolist(), strict=True)}
        for name, q in quantiles.items()
    }


def kept(resume: bool, tokens: int) -> dict[str, dict[str, Any]]:
    """Rows of an unfinished run on the same text."""
    try:
        old: dict[str, Any] = load_record(NAME) if resume else {"text": {"tokens": None}}
    except QlabError:  # nothing to resume
        return {}
    return {f"{r['model']} {r['type']}": r for r in old["rows"]} if old["text"]["tokens"] == tokens else {}


def record(windows: int, rows: Mapping[str, dict[str, Any]], speed: Mapping[str, Any]) -> dict[str, Any]:
    """The record as it stands, cells in their own order."""
    found = [rows[name] for model, type_ in CELLS if (name := f"{model} {type_}") in rows]
    return {
        "made": provenance(f"python scripts/make_record_ladder.py --windows {windows}"),
        "about": "files written by qlab without an importance matrix, read back by qlab, compared with the float model",
        "text": {"name": TEXT, "tokens": windows * WINDOW, "window": WINDOW, "scored_per_window": WINDOW - 1},
        "speed": dict(speed),
        "rows": found,
    }


def main() -> None:
    """Measure cell by cell and write the record after each; then the speeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=Path, help="where converted files are kept and reused")
    parser.add_argument("--windows", type=int, default=8, help=f"windows of {WINDOW} tokens")
    parser.add_argument("--rounds", type=int, default=8, help=f"of {DECODED} decoded tokens a file; 0: no speed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="keep the rows of an unfinished run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        files: Path = options.files or Path(scratch)
        files.mkdir(parents=True, exist_ok=True)
        measure(files, options)


def measure(files: Path, options: argparse.Namespace) -> None:
    """Every missing row, then the speeds of all."""
    rows: dict[str, dict[str, Any]] = {}
    speed: dict[str, Any] = {}
    for number, (name, type_) in enumerate(CELLS, 1):
        if number == 1 or name != CELLS[number - 2][0]:
            loaded = qlab.load(name)
            ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, options.windows * WINDOW)
            rows = rows or kept(options.resume, len(ids))
        key = f"{name} {type_}"
        if key not in rows:
            rows[key] = row(files, name, type_, loaded.model, ids)
            save_record(NAME, record(options.windows, rows, speed))
            print(f"{number} of {len(CELLS)}: {key}: KL {rows[key]['kl_mean']}", file=sys.stderr, flush=True)
    del loaded
    for key, values in (found := speeds(files, ids.tolist(), options.threads, options.rounds)).items():
        rows[key] |= values
    if found:
        speed = {
            "tool": f"llama-cpp-python {version('llama-cpp-python')}", "threads": options.threads,
            "rounds": options.rounds, "tokens_per_round": DECODED, "prompt": PROMPT,
            "machine": "shared with other work",
        }  # fmt: skip
        save_record(NAME, record(options.windows, rows, speed))


if __name__ == "__main__":
    main()
