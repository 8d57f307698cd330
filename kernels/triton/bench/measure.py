"""The rows: our kernels, cuBLAS and peers at one type, shape and batch; each result first held against float64."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from .. import launch
from ..device import INTERPRETED
from . import cases, peers
from .cases import Case, Kind, Product
from .timing import Timer, interleaved, percentile10, ratio, timer


@dataclass(frozen=True)
class Row:
    """One product. Times in microseconds; ratios: how many times faster than the other, `_p10` the low end.

    gbps: packed weights, X and the result over the median. fraction_of_bandwidth: of the copy measured in this run.
    limit_us: those bytes at that bandwidth, or the operations at the matrix rate measured, whichever takes longer.
    """

    kernel: str
    type: str
    m: int
    n: int
    k: int
    group: int
    p10_us: float
    median_us: float
    gbps: float
    fraction_of_bandwidth: float
    tflops: float
    limit_us: float
    fraction_of_limit: float
    vs_cublas: float
    vs_cublas_p10: float
    vs_tinygemm: float | None = None
    vs_tinygemm_p10: float | None = None
    vs_gemlite: float | None = None
    vs_gemlite_p10: float | None = None
    vs_marlin: float | None = None
    vs_marlin_p10: float | None = None


@dataclass
class Log:
    """What a run finds besides rows: errors of results, remarks, failures of ours; and how long it may still go on."""

    minutes: float
    correctness: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    start: float = field(default_factory=monotonic)

    def note(self, text: str) -> None:
        """A remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def out_of_time(self) -> bool:
        """Whether nine tenths of the time have gone."""
        return monotonic() - self.start > 54 * self.minutes

    def may(self, peer: str) -> bool:
        """Whether a peer still has time: each has an eighth of it, building and tuning itself included."""
        if self.spent.get(peer, 0) <= 7.5 * self.minutes:
            return True
        self.note(f"{peer} took more than its share of the time and was left out from there on")
        return False

    def charge(self, peer: str, since: float) -> None:
        """A peer used the time since then."""
        self.spent[peer] = self.spent.get(peer, 0.0) + monotonic() - since


def rows(
    kinds: Sequence[Kind], shapes: Sequence[tuple[int, int]], batches: Sequence[int], device: torch.device,
    ceilings: dict[str, dict[str, float]], log: Log, rounds: int, tune: bool,
) -> Iterator[Row]:  # fmt: skip
    """A row for each combination, in this order; what is wrong or fails is logged and has none."""
    for shape in shapes:
        for kind in kinds:
            if kind.group and shape[1] % kind.group:
                log.note(f"{kind.name} at {shape[0]}x{shape[1]}: its groups do not divide the columns")
                continue
            yield from _case(Case(kind, shape, device, max(batches)), batches, ceilings, log, rounds, tune)
            gc.collect()
            if not INTERPRETED:
                torch.cuda.empty_cache()


def _case(
    case: Case, batches: Sequence[int], ceilings: dict[str, dict[str, float]], log: Log, rounds: int, tune: bool
) -> Iterator[Row]:
    where = f"{case.kind.name} at {case.shape[0]}x{case.shape[1]}"
    all_ours = cases.rotated(case.weights)
    ours: list[Product] = [lambda X, w=w: launch.multiply(X, w, tune=tune) for w in all_ours]  # type: ignore[misc]
    right = [m for m in batches if _right(case, m, ours[0], where, log)]
    others = {"cublas": peers.cublas(case)} | _peers(case, where, log)
    for m in right:
        if log.out_of_time:
            log.note(f"out of time: {where} from batch {m} on was not measured")
            return
        try:
            own = _timer(ours, case.X[:m])
        except Exception as error:
            log.failures.append(f"{where}, batch {m}: {told(error)}")
            continue
        timers = {"ours": own} | _timers(case, m, others, where, log)
        yield _row(case, m, _kernel(case, m, tune), interleaved(timers, rounds), ceilings)


def _right(case: Case, m: int, product: Product, where: str, log: Log) -> bool:
    """Whether our result is right at that batch."""
    try:
        error = case.error(product(case.X[:m]))
    except Exception as problem:
        log.failures.append(f"{where}, batch {m}: {told(problem)}")
        return False
    N, K = case.shape
    log.correctness.append({"type": case.kind.name, "m": m, "n": N, "k": K, "error": error, "bound": cases.BOUND})
    if not error <= cases.BOUND:
        found = f"wrong by {error:.2g} of the largest value, the bound is {cases.BOUND}"
        log.failures.append(f"{where}, batch {m}: {found}")
    return error <= cases.BOUND


def _peers(case: Case, where: str, log: Log) -> dict[str, list[Product]]:
    """Those that can be built here and give the right numbers."""
    found = {}
    for name, build in peers.PEERS.items():
        since = monotonic()
        try:
            if log.may(name):
                products = build(case)
                error = case.error(products[0](_input(case, 4, name)))
                if error <= peers.BOUND:
                    found[name] = products
                else:
                    log.note(f"{name}, {where}: wrong by {error:.2g} of the largest value, left out")
        except peers.NotHere as reason:
            log.note(f"no {name} beside {case.kind.name}: {reason}")
        except Exception as error:
            log.note(f"no {name}, {where}: {told(error)}")
        log.charge(name, since)
    return found


def _timers(case: Case, m: int, others: dict[str, list[Product]], where: str, log: Log) -> dict[str, Timer]:
    found = {}
    for name, products in others.items():
        since = monotonic()
        X = _input(case, m, name)
        try:
            if name == "cublas" or log.may(name):
                found[name] = _timer(products, X)
        except Exception as error:
            log.note(f"no {name}, {where}, batch {m}: {told(error)}")
        log.charge(name, since)
    return found


def _timer(products: list[Product], X: Tensor) -> Timer:
    return timer([partial(product, X) for product in products])


def _input(case: Case, m: int, name: str) -> Tensor:
    """X of the first m tokens in what a peer takes."""
    return case.X[:m].to(peers.INPUTS.get(name, torch.float16))


def _kernel(case: Case, m: int, tune: bool) -> str:
    """The kernel that multiplies."""
    X = case.X[:m]
    return launch.wanted(X, case.weights, X.new_empty(m, case.shape[0]), None, tune).kernel


def _row(
    case: Case, m: int, kernel: str, times: dict[str, list[float]], ceilings: dict[str, dict[str, float]]
) -> Row:
    own = times["ours"]
    (N, K), median = case.shape, statistics.median(own)
    nbytes, flops = case.weights.nbytes + 2 * m * (N + K), 2 * m * N * K
    bandwidth, rate = (ceilings[name]["median"] for name in ("copy_gbps", "matmul_tflops"))
    limit = max(nbytes / bandwidth / 1e9, flops / rate / 1e12)
    row = Row(
        kernel, case.kind.name, m, N, K, case.group,
        1e6 * percentile10(own), 1e6 * median, nbytes / median / 1e9, nbytes / median / 1e9 / bandwidth,
        flops / median / 1e12, 1e6 * limit, limit / median, *ratio(times["cublas"], own),
    )  # fmt: skip
    for name in peers.PEERS:
        if name in times:
            middle, low = ratio(times[name], own)
            more: dict[str, Any] = {f"vs_{name}": middle, f"vs_{name}_p10": low}
            row = replace(row, **more)
    return row


def told(error: Exception) -> str:
    """The first line of what went wrong."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def plain(row: Row) -> dict[str, Any]:
    """A row as data."""
    return asdict(row)
