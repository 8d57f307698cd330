"""The fastest configuration for a shape, measured on this device once and kept in the user's cache folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from . import choose, device
from .choose import Config
from .weights import Kind, Weights


def candidates(M: int, capability: int, kind: Kind = choose.COMMON) -> Iterator[Config]:
    """The table's choice and its neighbours: other splits, a stage more and less, narrower tiles; and dense."""
    base = choose.choose(M, capability, kind)
    yield choose.DENSE
    if base.kernel == "dense":
        base = choose.named("gemm", M, capability, kind)
    for split in (None, *choose.SPLITS):
        for stages in (base.stages - 1, base.stages, base.stages + 1):
            for BN in {base.BN, 64}:
                yield replace(base, split=split, stages=max(stages, 2), BN=BN)


Measure = Callable[[Callable[[], Any]], float]
"""Milliseconds of a call."""


def fastest(X: Tensor, weights: Weights, run: Callable[[Config], Any], measure: Measure | None = None) -> Config:
    """The configuration that ran fastest; `measure` defaults to Triton's do_bench.

    Rows are tuned in powers of two. What a damaged file says is measured anew.
    """
    path = _path(X.device)
    known = _read(path)
    key = _key(X.shape[0], weights)
    if key not in known:
        known[key] = asdict(_measured(X, weights, run, measure or triton.testing.do_bench))
        _write(path, _read(path) | {key: known[key]})
    return Config(**known[key])


def _measured(X: Tensor, weights: Weights, run: Callable[[Config], Any], measure: Measure) -> Config:
    times = {}
    for config in candidates(X.shape[0], device.capability(X.device), weights.kind):
        if device.fits(config, weights, X.device) and (config.split or 1) <= weights.codes.shape[0]:
            times[config] = measure(lambda config=config: run(config))
    return min(times, key=lambda config: times[config])


def _key(M: int, weights: Weights) -> str:
    rows = 1 << (M - 1).bit_length()
    zero = "zero" if weights.has_zero else "table" if weights.codebook is not None else "sym"
    return f"{rows} {weights.shape} {weights.bits} {weights.group} {zero} {weights.dtype}"


def _path(where: torch.device) -> Path:
    """One file for a device's name, a version of Triton and of these kernels."""
    base = os.environ.get("QLAB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qlab"
    name = "cpu" if device.INTERPRETED else torch.cuda.get_device_name(where).replace(" ", "-")
    return Path(base) / "triton" / f"{name}-{triton.__version__}-{_sources()}.json"


@functools.cache
def _sources() -> str:
    """A digest of this folder: what was fastest before a kernel changed need not be now."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(path.read_text())
        return {key: asdict(Config(**value)) for key, value in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(path: Path, known: dict[str, dict[str, Any]]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        json.dump(known, file, indent=1)
    Path(file.name).replace(path)
