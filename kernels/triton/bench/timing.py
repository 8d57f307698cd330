"""Timing without the host: calls captured in a CUDA graph and replayed, contestants taking turns.

In Triton's interpreter there is neither: a plain clock around plain calls, and the numbers say nothing about speed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

import torch

from ..device import INTERPRETED

Call = Callable[[], Any]
REPLAY = 1e-3  # seconds that a replay lasts at least, so that its start and end do not count


class Timer(Protocol):
    """Something that can be timed again and again."""

    def seconds(self) -> float:
        """Of one call, averaged over one round."""


class Replayed:
    """Calls captured in a graph; one replay runs each of them `repeats` times, in turns."""

    def __init__(self, calls: Sequence[Call]):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles, and fills what libraries keep, outside of the capture
            calls[0]()
            once = _elapsed(lambda: [call() for call in calls])
        torch.cuda.current_stream().wait_stream(side)
        repeats = max(1, min(50, round(REPLAY / max(once, 1e-6))))
        self.count = repeats * len(calls)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(repeats):
                for call in calls:
                    call()
        self.graph.replay()

    def seconds(self) -> float:
        """Of one call."""
        return _elapsed(self.graph.replay) / self.count


class Plain:
    """Calls by the clock; on a GPU by its own events, with the host's launches in between."""

    def __init__(self, calls: Sequence[Call]):
        self.calls = calls
        calls[0]()

    def seconds(self) -> float:
        """Of one call."""
        run = lambda: [call() for call in self.calls]  # noqa: E731
        return (_clock(run) if INTERPRETED else _elapsed(run)) / len(self.calls)


def timer(calls: Sequence[Call]) -> Timer:
    """What times calls here."""
    return Plain(calls) if INTERPRETED else Replayed(calls)


def _elapsed(run: Call) -> float:
    """Seconds between two events of the running stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _clock(run: Call) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def interleaved(timers: dict[str, Timer], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant, one measurement of every one in each round."""
    found: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, one in timers.items():
            found[name].append(one.seconds())
    return found


def percentile10(values: Sequence[float]) -> float:
    """The 10th percentile, between neighbours linearly."""
    ordered = sorted(values)
    place = 0.1 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def ratio(others: Sequence[float], own: Sequence[float]) -> tuple[float, float]:
    """Median and low end of how many times faster `own` was than the other in the same round."""
    found = [other / mine for other, mine in zip(others, own, strict=True)]
    return statistics.median(found), percentile10(found)


def ceilings(device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """What the device reaches: GB/s of a copy (bytes read and bytes written), TFLOP/s of a float16 product."""
    numbers, side = (2**12, 64) if INTERPRETED else (2**29, 8192)
    source = torch.ones(numbers, dtype=torch.float16, device=device)
    target = torch.empty_like(source)
    A, B = (torch.randn(side, side, dtype=torch.float16, device=device) for _ in range(2))
    timers = {"copy": timer([lambda: target.copy_(source)]), "matmul": timer([lambda: A @ B])}
    times = interleaved(timers, rounds)
    work = {"copy": ("gbps", 2 * source.nbytes / 1e9), "matmul": ("tflops", 2 * side**3 / 1e12)}
    return {
        f"{name}_{unit}": {"median": amount / statistics.median(times[name]), "p90": amount / percentile10(times[name])}
        for name, (unit, amount) in work.items()
    }
