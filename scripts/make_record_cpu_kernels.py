"""Makes data/records/cpu_kernels.json: kernels beside their machine, layouts beside each other, and 8-bit inputs.

Times want a machine with nothing else to do. Another tool's kernels stand beside ours where llama-cpp-python can be
imported (scripts/build_llama_cpp.py builds one: put the folder it names on PYTHONPATH).

python scripts/make_record_cpu_kernels.py [--part kernels] [--part layouts] [--part inputs]   all of them by default
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from qlab.kernels import cpu

import qlab
from qlab import bench_cpu, peers
from qlab.bench_cpu import interleaved
from qlab.convert import to_gguf_file
from qlab.errors import QlabError
from qlab.evaluate import evaluate
from qlab.ggml import grid_type
from qlab.methods import quantize
from qlab.records import load_record, provenance, save_record

NAME, TEXT, WINDOW, MODEL = "cpu_kernels", "britannica", 512, "reference-768"
PARTS = ("kernels", "layouts", "inputs")
SHAPE = (4096, 4096)
TYPES = ("Q8_0", "Q6_K", "Q4_K", "Q4_0", "Q3_K", "Q2_K")
REPACKED = ("Q4_0", "Q4_K", "IQ4_NL", "Q8_0", "Q2_K", "Q6_K")
"""Types of which llama.cpp has, on one machine or another, a second layout."""
TOKENS = (1, 2, 4, 8, 16, 64)
FILES = ("Q8_0", "Q4_0", "Q4_K_M")
FIELDS = (
    "type", "m", "isa", "threads", "gbps", "gflops", "p10_us", "median_us", "fraction_of_read",
    "vs_ggml", "vs_ggml_p10", "ggml_repacked",
)  # fmt: skip


def short(value: Any) -> Any:
    """Numbers at three digits: more are noise."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def machine(threads: int, rounds: int) -> dict[str, Any]:
    """The two ceilings: GB/s of a plain read, GFLOP/s of our product in the cache."""
    read = bench_cpu.ceiling(sorted({1, threads}), rounds)
    compute = {str(n): bench_cpu.compute_ceiling(threads=n) for n in sorted({1, threads})}
    return {
        "isa": cpu.isa(), "cache_bytes": bench_cpu.cache_bytes(), "load": round(os.getloadavg()[0], 1),
        "read_gbps": {n: short(v["median"]) for n, v in read.items()},
        "compute_gflops": {n: short(v) for n, v in compute.items()},
    }  # fmt: skip


def kernel_rows(peer: peers.GGML | None, rounds: int) -> list[dict[str, Any]]:
    """Every type and count of tokens on one thread; one type on every instruction set as well."""
    found = list(bench_cpu.kernels(peer, TYPES, (SHAPE,), TOKENS, rounds=rounds))
    others = [isa for isa in cpu.isas() if isa != cpu.isa()]
    found += bench_cpu.kernels(None, ("Q4_0",), (SHAPE,), (1,), isas=others, rounds=max(3, rounds // 3))
    return [{key: short(row[key]) for key in FIELDS} for row in bench_cpu.table(found)]


def layout_rows(peer: peers.GGML, rounds: int) -> Iterator[dict[str, Any]]:
    """llama.cpp's products of one matrix in the rows of its file and in its second layout, one thread, in turns."""
    products = peer.products(1)
    W = 0.02 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    X = torch.randn(max(TOKENS), SHAPE[1], generator=torch.Generator().manual_seed(1)).numpy()
    for name in REPACKED:
        kind = grid_type(name)
        data = kind.pack(quantize(W, kind.spec, "rtn")).numpy()
        for m in (1, 16):
            copies = max(2, round(1.5 * bench_cpu.cache_bytes() / data.nbytes)) if m == 1 else 2
            number = GGMLQuantizationType[name]
            both = {
                label: [products.product(data, number, SHAPE[1], X[:m], repack=repack) for _ in range(copies)]
                for label, repack in (("rows", False), ("repacked", True))
            }
            if both["repacked"][0].repacked:
                times = interleaved({k: [p.run for p in v] for k, v in both.items()}, rounds, products.pause)
                speed = {k: SHAPE[0] * SHAPE[1] * 2 * m / float(np.median(t)) / 1e9 for k, t in times.items()}
                ratio = float(np.median(times["rows"] / times["repacked"]))
                yield {"type": name, "m": m, **{k: short(v) for k, v in speed.items()}, "gain": short(ratio)}
            for product in (*both["rows"], *both["repacked"]):
                product.close()


def input_rows(windows: int) -> Iterator[dict[str, Any]]:
    """The model of each file with float inputs and with inputs in 8 bits, beside the model it was made from."""
    loaded = qlab.load(MODEL)
    ids = qlab.tokens(loaded.tokenizer, qlab.load_text(TEXT).text, windows * WINDOW)
    with tempfile.TemporaryDirectory() as folder:
        for type_ in FILES:
            path = Path(folder) / f"{type_}.gguf"
            to_gguf_file(MODEL, path, type_, progress=False)
            for inputs in ("float", "int8"):
                model = qlab.load(path, packed=True, activations=inputs).model
                result = evaluate(model, ids, reference=loaded.model, window=WINDOW, progress=False)
                keys = ("perplexity", "kl_mean", "kl_se", "top1_agreement")
                yield {"type": type_, "inputs": inputs} | {k: float(f"{getattr(result, k):.4g}") for k in keys}


def kept() -> dict[str, Any]:
    """The record as it is, for the parts that are not made again."""
    try:
        return load_record(NAME)
    except QlabError:
        return {}


def main() -> None:
    """Make the parts that are asked for, and write the record after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--windows", type=int, default=8, help=f"windows of {WINDOW} tokens, for the inputs")
    options = parser.parse_args()
    parts, peer = options.part or PARTS, peers.ggml()
    about = f"{SHAPE[0]} × {SHAPE[1]}, one thread, weights from memory; FLOPs are 2 a weight and token"
    command = f"python scripts/make_record_cpu_kernels.py --rounds {options.rounds} --windows {options.windows}"
    record, made = {"about": about} | kept(), provenance(command)
    record = {"made": made} | {key: value for key, value in record.items() if key != "made"}
    if "kernels" in parts:
        record["machine"] = machine(options.threads, options.rounds) | {"beside": "llama.cpp" if peer else ""}
        record["kernels"] = kernel_rows(peer, options.rounds)
        save_record(NAME, record)
        print("kernels: done", file=sys.stderr, flush=True)
    if "layouts" in parts and peer:
        record["layouts"] = list(layout_rows(peer, options.rounds))
        save_record(NAME, record)
    if "inputs" in parts:
        record["text"] = {"name": TEXT, "tokens": options.windows * WINDOW, "window": WINDOW}
        record["inputs"] = list(input_rows(options.windows))
        save_record(NAME, record)


if __name__ == "__main__":
    main()
