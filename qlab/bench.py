"""Speed: first the machine's own ceiling, then each operation beside a copy of the same bytes, in turns.

Absolute times are noise on a shared machine, so what counts is the ratio to the copy that ran just before. Inputs
rotate over more memory than a cache holds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle
from time import perf_counter
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from qlab.bits import pack_bits, pack_in_torch, unpack_bits, unpack_in_torch
from qlab.convert import encoded
from qlab.errors import QlabError
from qlab.ggml import grid_type
from qlab.kernels import cpu
from qlab.methods import quantize
from qlab.peers import GGML, ggml

ROTATE = 64 * 2**20  # bytes; twice the last-level cache of the machines we measure on
CEILING = 4 * ROTATE  # one read of this lasts long enough to hide the start of the threads
SPEC = "int4-g128-asym"
BITS = 4
SHAPE = (1024, 4096)  # [out, in], 16 MiB in float32
ENCODED = ("Q8_0", "Q4_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS")
NO_CEILING = "the read ceiling needs the compiled kernels"
PARAMETERS = 1 << 20
"""Weights that one encoding takes."""


@dataclass(frozen=True)
class Row:
    """One operation: GB/s over `nbytes`, and the same as a ratio to copying them (no ratio for the ceiling itself).

    p10 is the 10th percentile of the speeds: nine runs of ten were faster. vs_torch: the ratio to the same in torch,
    where that is another way.
    """

    name: str
    threads: int
    nbytes: int
    gb_per_s: float
    gb_per_s_p10: float
    ratio: float | None = None
    ratio_p10: float | None = None
    vs_torch: float | None = None
    vs_torch_p10: float | None = None


@dataclass(frozen=True)
class Encoding:
    """Encoding into blocks of GGUF: million weights a second, p10 as in `Row`; ggml's own and the ratio where it is."""

    type: str
    threads: int
    per_s: float
    per_s_p10: float
    ggml_per_s: float | None = None
    vs_ggml: float | None = None
    vs_ggml_p10: float | None = None


@dataclass(frozen=True)
class Operation:
    """Something to time: `run` takes one of `inputs`; `nbytes` is what it reads as weights, or writes as such."""

    name: str
    nbytes: int
    run: Callable[[Any], object]
    inputs: Sequence[Any]
    in_torch: Callable[[Any], object] | None = None


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = perf_counter()
    run()
    return perf_counter() - start


def threads_available() -> int:
    """Processors this process may use, which a container can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ceiling(rounds: int) -> list[Row]:
    """Read bandwidth at one and at all threads, in turns; QlabError without the kernels."""
    if not cpu.available:
        raise QlabError(f"{NO_CEILING}: {cpu.missing}")
    buffer = np.ones(CEILING, dtype=np.uint8)
    counts = sorted({1, threads_available()})
    times = [[seconds(lambda n=n: cpu.read_sum(buffer, n)) for n in counts] for _ in range(rounds)]  # type: ignore[misc]
    speeds = buffer.nbytes / np.array(times).T / 1e9  # [counts, rounds]
    return [Row("read", n, CEILING, *middle_and_low(s)) for n, s in zip(counts, speeds, strict=True)]


def middle_and_low(values: np.ndarray) -> tuple[float, float]:
    """Median and 10th percentile."""
    return float(np.median(values)), float(np.percentile(values, 10))


def rotated(make: Callable[[], Tensor]) -> list[Tensor]:
    """As many fresh tensors as it takes to fill ROTATE bytes."""
    first = make()
    return [first, *(make() for _ in range(math.ceil(ROTATE / first.nbytes) - 1))]


def operations(shape: tuple[int, int]) -> Iterator[Operation]:
    """What the road does to every weight of a model: quantize, pack, unpack, dequantize."""
    generator = torch.Generator().manual_seed(0)
    Ws = rotated(lambda: torch.randn(shape, generator=generator))
    codes = rotated(lambda: torch.randint(2**BITS, shape, dtype=torch.uint8, generator=generator))
    qtensors = [quantize(W, SPEC) for W in Ws * 4]  # a code weighs a quarter of a float32
    words = rotated(pack_bits(codes[0], BITS).clone)
    yield Operation(f"quantize {SPEC}", Ws[0].nbytes, lambda W: quantize(W, SPEC), Ws)
    yield Operation("dequantize", Ws[0].nbytes, lambda q: q.dequantize(), qtensors)
    size, n = codes[0].nbytes, shape[1]
    yield Operation(f"pack_bits {BITS}", size, lambda c: pack_bits(c, BITS), codes, lambda c: pack_in_torch(c, BITS))
    yield Operation(
        f"unpack_bits {BITS}", size, lambda w: unpack_bits(w, BITS, n), words, lambda w: unpack_in_torch(w, BITS, n)
    )


def beside_copy(operation: Operation, rounds: int) -> Row:
    """Time `operation`, a copy of as many bytes, and torch's way, in turns: copy, operation, torch, copy …"""
    sources = cycle(rotated(lambda: torch.ones(operation.nbytes, dtype=torch.uint8)))
    target = torch.empty(operation.nbytes, dtype=torch.uint8)
    inputs = cycle(operation.inputs)
    operation.run(next(inputs))  # the first call allocates
    runs: list[Callable[[], object]] = [
        lambda: target.copy_(next(sources)),
        lambda: operation.run(next(inputs)),
    ]
    if (in_torch := operation.in_torch) is not None:
        runs.append(lambda: in_torch(next(inputs)))
    copy, own, *other = np.array([[seconds(run) for run in runs] for _ in range(rounds)]).T
    speeds = middle_and_low(operation.nbytes / own / 1e9)
    ratios = [*middle_and_low(copy / own), *(x for torchs in other for x in middle_and_low(torchs / own))]
    return Row(operation.name, torch.get_num_threads(), operation.nbytes, *speeds, *ratios)


def encodings(rounds: int, parameters: int = PARAMETERS, peer: GGML | None = None) -> Iterator[Encoding]:
    """Each type as `convert` encodes it, and in turns with it `peer`'s, at one and at all threads."""
    W = 0.02 * torch.randn(max(2, parameters // SHAPE[1]), SHAPE[1], generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        for threads in sorted({1, threads_available()}):
            torch.set_num_threads(threads)
            for name in ENCODED:
                yield encoding(name, W, threads, rounds, peer)
    finally:
        torch.set_num_threads(before)


def encoding(name: str, W: Tensor, threads: int, rounds: int, peer: GGML | None) -> Encoding:
    """One type: encode W [rows, row], then the same by `peer`, `rounds` times."""
    kind = grid_type(name)
    out = np.zeros((len(W), W.shape[1] // kind.weights * kind.nbytes), np.uint8)
    parts = [slice(i * len(W) // threads, (i + 1) * len(W) // threads) for i in range(threads)]
    number = GGMLQuantizationType[name]

    def theirs(part: slice) -> None:
        assert peer is not None
        peer.quantize(W[part].numpy(), number, out[part])

    with ThreadPoolExecutor(threads) as pool:
        times = [
            (
                seconds(lambda: encoded(W, name)),
                seconds(lambda: list(pool.map(theirs, parts))) if peer else math.nan,
            )
            for _ in range(rounds + 1)
        ][1:]  # the first call allocates
    own, other = np.array(times).T
    speeds = middle_and_low(W.numel() / own / 1e6)
    if peer is None:
        return Encoding(name, threads, *speeds)
    return Encoding(name, threads, *speeds, float(np.median(W.numel() / other / 1e6)), *middle_and_low(other / own))


def run(rounds: int = 20, shape: tuple[int, int] = SHAPE) -> list[dict[str, Any]]:
    """All rows, the ceiling first if kernels can read it; each timed `rounds` times on weights of `shape` [out, in]."""
    if rounds < 1:
        raise QlabError(f"rounds is {rounds}: a benchmark needs at least 1")
    rows = ceiling(rounds) if cpu.available else []
    rows += [beside_copy(operation, rounds) for operation in operations(shape)]
    return [asdict(row) for row in rows]


def machine() -> dict[str, Any]:
    """Where the figures were taken."""
    return {
        "processor": platform.processor() or platform.machine(),
        "features": cpu.features(),
        "threads": threads_available(),
        "torch": torch.__version__,
    }


def encoding_line(row: dict[str, Any]) -> str:
    """One encoding as text."""
    peer = "" if row["vs_ggml"] is None else f"{row['ggml_per_s']:9.1f} {row['vs_ggml']:8.3f} {row['vs_ggml_p10']:8.3f}"
    name = "encode " + row["type"]
    return f"{name:<24}{row['threads']:>7} {row['per_s']:9.2f} {row['per_s_p10']:9.2f} {peer}".rstrip()


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:8.3f} {row['ratio_p10']:8.3f}"
    if row["vs_torch"] is not None:
        ratio += f" {row['vs_torch']:8.2f} {row['vs_torch_p10']:8.2f}"
    return f"{row['name']:<24}{row['threads']:>7} {row['gb_per_s']:9.2f} {row['gb_per_s_p10']:9.2f} {ratio}".rstrip()


def main(argv: list[str] | None = None) -> None:
    """Print the table, or with --json one object with the rows under `rows`."""
    parser = argparse.ArgumentParser(prog="qlab.bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20, help="timings per row (default 20)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    peer = ggml()
    try:
        rows = run(options.rounds)
        encoding_rows = [asdict(row) for row in encodings(max(1, options.rounds // 4), PARAMETERS, peer)]
    except QlabError as error:
        parser.error(str(error))  # exit code 2
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows, "encodings": encoding_rows}))
        return
    print(", ".join(machine()["features"]), f"· torch {torch.__version__}")
    print(f"{'':<24}{'threads':>7} {'GB/s':>9} {'p10':>9} {'× copy':>8} {'p10':>8} {'× torch':>8} {'p10':>8}")
    if not cpu.available:
        print(f"{NO_CEILING}: {cpu.missing}")
    print(*map(line, rows), sep="\n")
    print(f"\n{'':<24}{'threads':>7} {'million/s':>9} {'p10':>9} {'ggml':>9} {'× ggml':>8} {'p10':>8}")
    print(*map(encoding_line, encoding_rows), sep="\n")
    if peer is None:
        print("llama.cpp is not installed here, so nothing stands beside them (`make test-llama-cpp` builds it)")


if __name__ == "__main__":
    main()
