"""Step: what an algorithm shows of itself while it runs, and what every widget and progress bar is made of."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")
Steps = Generator["Step", None, T]
"""A generator that yields Steps and returns a T."""


@dataclass(frozen=True)
class Step:
    """One moment of an algorithm.

    name: what happened ("group", "candidate", "column"); index of total; columns: the input channels it touched;
    error: the algorithm's own objective so far; data: small tensors worth drawing, never a whole model.
    """

    name: str
    index: int
    total: int
    error: float
    columns: slice | None = None
    data: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


def drain(steps: Steps[T]) -> T:
    """Run a generator of Steps to its end and give back what it returns: how production runs every algorithm."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
