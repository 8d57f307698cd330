"""A whole packed model: tokens a second of reading a prompt and of writing, beside llama.cpp on the same file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlab.bench_cpu import SETTLE
from qlab.errors import QlabError
from qlab.generate import PackedDecoder, why_not_packed
from qlab.models import load

PREFILL, DECODE = (128, 512), 64
WARM = 4
"""Tokens that are written before the clock starts."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second, median of the rounds, and llama.cpp's with the ratio to it; p10 is the low end of the ratios."""

    model: str
    measure: str
    threads: int
    tokens: int
    per_second: float
    llama_cpp_per_second: float | None = None
    vs_llama_cpp: float | None = None
    vs_llama_cpp_p10: float | None = None


class _Ours:
    def __init__(self, model: Any, room: int):
        self._decoder = PackedDecoder(model, room)

    def forget(self) -> None:
        self._decoder.rewind()

    def read(self, ids: Tensor) -> None:
        self._decoder.read(ids)


class _Theirs:
    def __init__(self, path: str, room: int, threads: int):
        import llama_cpp

        self._llama = llama_cpp.Llama(
            path, n_ctx=room, n_threads=threads, n_threads_batch=threads, n_batch=room, n_ubatch=room, verbose=False
        )

    def forget(self) -> None:
        self._llama.reset()
        self._llama._ctx.kv_cache_clear()

    def read(self, ids: Tensor) -> None:
        self._llama.eval(ids.tolist())


def speeds(path: str, threads: Sequence[int], rounds: int = 5) -> Iterator[Speed]:
    """Rows for prompts of 128 and 512 tokens and for 64 written ones; QlabError where the model does not run packed."""
    loaded = load(path, activations="int8", packed=True)
    if reason := why_not_packed(loaded.model):
        raise QlabError(f"{path}: {reason}: only packed models of the llama family are timed")
    room = max(PREFILL) + DECODE
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(loaded.model.config.vocab_size // 2, (max(PREFILL),), generator=generator)
    before = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            sides: list[Any] = [_Ours(loaded.model, room)]
            if importlib.util.find_spec("llama_cpp"):
                sides.append(_Theirs(path, room, count))
            for n in PREFILL:
                yield _speed(path, f"prefill {n}", count, n, sides, partial(_prefill, ids[:n]), rounds)
            yield _speed(path, f"decode {DECODE}", count, DECODE, sides, partial(_decode, ids), rounds)
    finally:
        torch.set_num_threads(before)


def _prefill(ids: Tensor, side: Any) -> float:
    side.forget()
    side.read(ids[:16])  # wakes the threads
    side.forget()
    start = perf_counter()
    side.read(ids)
    return perf_counter() - start


def _decode(ids: Tensor, side: Any) -> float:
    side.forget()
    side.read(ids[:8])
    for i in range(WARM):
        side.read(ids[i : i + 1])
    start = perf_counter()
    for i in range(DECODE):
        side.read(ids[i : i + 1])
    return perf_counter() - start


def _speed(
    path: str, measure: str, threads: int, tokens: int, sides: list[Any], run: Callable[[Any], float], rounds: int
) -> Speed:
    times = []
    for _ in range(rounds + 1):
        row = []
        for side in sides:
            sleep(SETTLE)
            row.append(run(side))
        times.append(row)
    seconds = np.array(times[1:]).T  # the first round allocates
    per_second = tokens / np.median(seconds, axis=1)
    name = path.rsplit("/", 1)[-1]
    if len(sides) == 1:
        return Speed(name, measure, threads, tokens, float(per_second[0]))
    ratio = seconds[1] / seconds[0]
    ours, theirs = map(float, per_second)
    return Speed(name, measure, threads, tokens, ours, theirs, float(np.median(ratio)), float(np.percentile(ratio, 10)))


HEADING = f"{'':<14}{'threads':>8}{'tokens/s':>11}{'llama.cpp':>10}{'ratio':>8}{'p10':>8}"


def line(row: Speed) -> str:
    """One row as text."""
    beside = ""
    if row.vs_llama_cpp is not None:
        beside = f"{row.llama_cpp_per_second:>10.1f}{row.vs_llama_cpp:>8.2f}{row.vs_llama_cpp_p10:>8.2f}"
    return f"{row.measure:<14}{row.threads:>8}{row.per_second:>11.1f}{beside}"
