"""The CPU kernels beside what the machine can do and beside other tools', in one process, in turns.

First the ceiling: how fast memory can be read at one and at all threads. Then every type and shape: our kernel, ggml's
and torch's one after the other, round by round, each on the next of several copies of the weights, together larger
than any cache; a ratio is taken within a round, and its median reported. Absolute times are noise on a shared machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from qlab.errors import QlabError
from qlab.ggml import GridType, grid_type
from qlab.kernels import cpu
from qlab.methods import quantize
from qlab.packed import room
from qlab.peers import GGML, GGMLProducts
from qlab.tiles import Tiled, tile

SHAPES = ((4096, 4096), (4096, 14336), (14336, 4096), (768, 768), (1536, 768))
"""[out, in]: those of an 8B llama, and reference-768's own."""
TYPES = ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "Q5_K", "Q3_K", "Q2_K", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "int4-g128-asym")
TOKENS = (1, 16, 128)
SETTLE = WARM = 0.003
"""Seconds until threads that wait for work have gone to sleep, and until a processor that slept is at its speed."""
MOST_COPIES = 4096
"""Of one matrix: all of them, if small, stay in a cache, where making more would take longer than measuring."""
TORCH_GROUP = 32
"""Of torch's int4 weights: the group of Q4_0."""


@dataclass(frozen=True)
class Kernel:
    """One kernel at one size: microseconds, and ratios to others (above 1: ours is faster).

    gbps: the file's bytes over the median. fraction_of_read: of what a plain read of as many bytes reaches, for one
    token. p10 is the fast end of the times, and the low end of the ratios.
    """

    kernel: str
    isa: str
    type: str
    m: int
    n: int
    k: int
    threads: int
    p10_us: float
    median_us: float
    gbps: float
    gflops: float
    fraction_of_read: float | None = None
    fraction_of_read_p10: float | None = None
    vs_ggml: float | None = None
    vs_ggml_p10: float | None = None
    ggml_repacked: bool | None = None
    vs_torch: float | None = None
    vs_torch_p10: float | None = None


def cache_bytes() -> int:
    """The largest cache of this machine, as Linux tells it; 32 MiB where it does not."""
    sizes = [32 * 2**20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KMG")) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1))
    return max(sizes)


def kernels(
    peer: GGML | None = None,
    types: Sequence[str] = TYPES,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    tokens: Sequence[int] = TOKENS,
    threads: Sequence[int] = (1,),
    isas: Sequence[str] = ("",),
    rounds: int = 21,
) -> Iterator[Kernel]:
    """A row for each combination, in this order."""
    _need_kernels()
    products = {n: peer.products(n) for n in threads} if peer else {}
    before = torch.get_num_threads()
    try:
        for shape in shapes:
            for name in types:
                case = _Case(name, shape)
                for m in tokens:
                    for n in threads:
                        torch.set_num_threads(n)
                        for isa in isas:
                            yield case.measured(m, n, isa or cpu.isa(), products.get(n), rounds)
    finally:
        torch.set_num_threads(before)


class _Case:
    """One type at one shape: copies of the weights for each of the contestants."""

    def __init__(self, name: str, shape: tuple[int, int]):
        self.shape = shape
        generator = torch.Generator().manual_seed(0)
        W = 0.02 * torch.randn(shape, generator=generator)
        kind = grid_type(name) if "-" not in name else None
        self.name = kind.name if kind else name
        Q = quantize(W, kind.spec if kind else name, "rtn")
        self.nbytes = Q.nbytes
        self.copies = min(max(2, math.ceil(1.5 * cache_bytes() / self.nbytes)), MOST_COPIES)
        packed = tile(Q)
        self.tiled = [_copy(packed) for _ in range(self.copies)]
        self.data = kind.pack(Q).numpy() if isinstance(kind, GridType) else None
        self.words = _torch_int4(W) if self.name == "Q4_0" and shape[0] % 16 == 0 else None

    def measured(self, m: int, threads: int, isa: str, products: GGMLProducts | None, rounds: int) -> Kernel:
        X = torch.randn(m, self.shape[1], generator=torch.Generator().manual_seed(1))
        ours = [lambda W=W: W.multiply(X, half=True, isa=isa) for W in self.tiled]
        contestants: dict[str, Sequence[Callable[[], object]]] = {"ours": ours}
        peers = []
        if products and self.data is not None:
            number = GGMLQuantizationType[self.name]
            peers = [products.product(self.data, number, self.shape[1], X.numpy()) for _ in range(self._needed(m))]
            contestants["ggml"] = [p.run for p in peers]
        if self.words is not None:
            half = X.bfloat16()
            contestants["torch"] = [lambda w=w: _torch_product(half, w) for w in self._torch_copies(m)]  # type: ignore[misc]
        if m == 1:
            span = np.ones(self.nbytes * self.copies, np.uint8)
            pieces = [span[i * self.nbytes : (i + 1) * self.nbytes] for i in range(self.copies)]
            contestants["read"] = [lambda p=p: cpu.read_sum(p, threads) for p in pieces]  # type: ignore[misc]
        times = interleaved(contestants, rounds, products.pause if products else lambda: None)
        row = self._row(times, m, threads, isa)
        if peers:
            row = replace(row, ggml_repacked=peers[0].repacked)
            for p in peers:
                p.close()
        return row

    def _needed(self, m: int) -> int:
        """Copies that another tool's weights need: for one token more than the caches hold."""
        return self.copies if m == 1 else 2

    def _torch_copies(self, m: int) -> list[tuple[Tensor, Tensor]]:
        assert self.words is not None
        return [tuple(t.clone() for t in self.words) for _ in range(self._needed(m))]  # type: ignore[misc]

    def _row(self, times: dict[str, np.ndarray], m: int, threads: int, isa: str) -> Kernel:
        own = times["ours"]
        median = float(np.median(own))
        row = Kernel(
            "gemv" if m == 1 else "gemm", isa, self.name, m, *self.shape, threads,
            1e6 * float(np.percentile(own, 10)), 1e6 * median, self.nbytes / median / 1e9,
            2 * m * math.prod(self.shape) / median / 1e9,
        )  # fmt: skip
        named = {"read": "fraction_of_read", "ggml": "vs_ggml", "torch": "vs_torch"}
        for other, field in named.items():
            if other in times:
                ratio = times[other] / own
                middle, low = float(np.median(ratio)), float(np.percentile(ratio, 10))
                found: dict[str, Any] = {field: middle, f"{field}_p10": low}
                row = replace(row, **found)
        return row


def interleaved(
    contestants: dict[str, Sequence[Callable[[], object]]], rounds: int, rest: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """Seconds [rounds] of each contestant's calls, one of each in every round, each time on its next input.

    Threads of the one before may still spin, and its own may be asleep: everyone waits, works for WARM seconds as it
    would in a model, and is timed then. `rest` is called after each turn.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    inputs = {name: cycle(calls) for name, calls in contestants.items()}
    for _ in range(rounds):
        for name, calls in inputs.items():
            sleep(SETTLE)
            until = perf_counter() + WARM
            next(calls)()
            while perf_counter() < until:
                next(calls)()
            call = next(calls)
            start = perf_counter()
            call()
            times[name].append(perf_counter() - start)
            rest()
    return {name: np.array(t) for name, t in times.items()}


def _copy(W: Tiled) -> Tiled:
    parts: dict[str, Any] = {name: getattr(W, name) for name in ("codes", "scale", "offset", "sub")}
    kept: dict[str, Any] = {name: room(*t.shape, dtype=t.dtype).copy_(t) for name, t in parts.items() if t is not None}
    return replace(W, **kept)


def _torch_int4(W: Tensor) -> tuple[Tensor, Tensor]:
    """The weight as torch's CPU int4 product takes it: codes in its own order, bfloat16 scales and zeros."""
    groups = W.reshape(len(W), -1, TORCH_GROUP)
    low, high = groups.amin(2), groups.amax(2)
    scale = ((high - low) / 15).clamp(min=1e-6)
    codes = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32).reshape(W.shape)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    pairs = torch.stack([scale.T, (low + 8 * scale).T], 2).to(torch.bfloat16).contiguous()
    return packed, pairs


def _torch_product(X: Tensor, words: tuple[Tensor, Tensor]) -> Tensor:
    return torch.ops.aten._weight_int4pack_mm_for_cpu(X, words[0], TORCH_GROUP, words[1])


def _need_kernels() -> None:
    if not cpu.available:
        raise QlabError(f"there is nothing to measure: {cpu.missing}; install a C++ compiler and then qlab again")


def isas(name: str) -> list[str]:
    """The instruction sets that a name means: one, `all` of this processor, or the best for the empty one."""
    _need_kernels()
    if name == "all":
        return list(cpu.isas())
    try:
        return [cpu.isa(name)]
    except ValueError as error:
        raise QlabError(str(error)) from error


def ceiling(threads: Sequence[int], rounds: int) -> dict[str, dict[str, float]]:
    """GB/s that a plain read reaches over more memory than the caches hold, by number of threads: median and p10."""
    _need_kernels()
    buffer = np.ones(2 * cache_bytes(), np.uint8)
    times = interleaved({str(n): [lambda n=n: cpu.read_sum(buffer, n)] for n in threads}, max(5, rounds // 2))  # type: ignore[misc]
    speeds = {n: buffer.nbytes / t / 1e9 for n, t in times.items()}
    return {n: {"median": float(np.median(s)), "p10": float(np.percentile(s, 10))} for n, s in speeds.items()}


def compute_ceiling(threads: int = 1, rounds: int = 9) -> float:
    """GFLOP/s of our own products where the weights stay in the cache: what arithmetic alone allows."""
    rows, columns, tokens = 512, 512, 64
    values = 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    X = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(1))
    times = []
    for name in ("Q8_0", "Q4_0"):
        W = tile(quantize(values, grid_type(name).spec, "rtn"))
        for _ in range(rounds):
            start = perf_counter()
            for _ in range(10):
                W.multiply(X, half=True, threads=threads)
            times.append((perf_counter() - start) / 10)
    return 2 * tokens * rows * columns / min(times) / 1e9


def read_beside(rows: Sequence[Mapping[str, Any]]) -> float:
    """GB/s of the plain reads that were timed in turns with rows of one token: `gbps` over `fraction_of_read`."""
    speeds = [row["gbps"] / row["fraction_of_read"] for row in rows if row["fraction_of_read"]]
    return float(np.median(speeds))


def heading(read: dict[str, dict[str, float]], peer: bool) -> str:
    """What stands above the rows."""
    told = ", ".join(f"{v['median']:.1f} GB/s with {n} thread{'s' * (n != '1')}" for n, v in read.items())
    note = "" if peer else "\nllama.cpp is not installed here, so none of its kernels stand beside them"
    titles = ("type", "tokens", "out x in", "thr", "isa", "p10 us", "us", "GB/s", "GFLOP/s", "read", "ggml", "torch")
    return f"memory is read at {told}{note}\n" + _COLUMNS.format(*titles)


_COLUMNS = "{:<15}{:>7} {:>12}{:>4} {:<7}{:>10}{:>10}{:>7}{:>9}  {:<10}{:<11}{:<11}"


def line(row: Kernel) -> str:
    """One row as text; ratios as median/p10."""

    def ratio(median: float | None, low: float | None) -> str:
        return "" if median is None or low is None else f"{median:.2f}/{low:.2f}"

    repacked = "" if row.ggml_repacked is None else "r" if row.ggml_repacked else ""
    return _COLUMNS.format(
        row.type, row.m, f"{row.n}x{row.k}", row.threads, row.isa, f"{row.p10_us:.0f}", f"{row.median_us:.0f}",
        f"{row.gbps:.1f}", f"{row.gflops:.0f}", ratio(row.fraction_of_read, row.fraction_of_read_p10),
        ratio(row.vs_ggml, row.vs_ggml_p10) + repacked, ratio(row.vs_torch, row.vs_torch_p10),
    ).rstrip()  # fmt: skip


def table(rows: Sequence[Kernel]) -> list[dict[str, Any]]:
    """Rows as plain data."""
    return [asdict(row) for row in rows]
