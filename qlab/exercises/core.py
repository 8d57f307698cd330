"""How an attempt at an exercise is judged, and what the learner is told."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlab.errors import QlabError

Cases = Callable[[torch.Generator], Iterable[tuple[str, tuple]]]


@dataclass(frozen=True)
class Exercise:
    """One exercise: the right answer (`oracle`) and the inputs to try it on.

    cases: yields (what this input is, arguments), random ones drawn from the generator and adversarial ones by hand.
    tolerance: largest |attempt − oracle| relative to the oracle's largest magnitude that counts as equal.
    Values and shapes are judged, the dtype is not.
    """

    name: str
    oracle: Callable[..., Any]
    cases: Cases
    tolerance: float = 0.0

    def check(self, attempt: Callable[..., Any], seed: int = 0) -> Verdict:
        """Try `attempt` on every case and stop at the first that differs from the oracle."""
        tried = 0
        for label, arguments in self.cases(torch.Generator().manual_seed(seed)):
            tried += 1
            if (complaint := self._complaint(attempt, arguments)) is not None:
                return Verdict(self.name, False, tried, label, complaint)
        return Verdict(self.name, True, tried)

    def _complaint(self, attempt: Callable[..., Any], arguments: tuple) -> str | None:
        """What is wrong with the attempt on these arguments, None if nothing."""
        wanted = self.oracle(*_copies(arguments))
        try:
            got = attempt(*_copies(arguments))
        except NotImplementedError:
            return "the stub is still there: replace it with your code"
        except Exception as error:  # a learner's error is a verdict, not a traceback
            return f"it raised {type(error).__name__}: {error}"
        return _difference(got, wanted, self.tolerance)


@dataclass(frozen=True)
class Verdict:
    """What came of an attempt; true when every case passed."""

    name: str
    passed: bool
    tried: int
    case: str = ""
    complaint: str = ""

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        if self.passed:
            return f"✓ {self.name}: correct on all {self.tried} inputs"
        return f"✗ {self.name}: {self.case}: {self.complaint}"


def _copies(arguments: tuple) -> Iterator[Any]:
    """Fresh tensors for each call, so that code which works in place cannot disturb the oracle."""
    return (a.clone() if isinstance(a, Tensor) else a for a in arguments)


def _difference(got: Any, wanted: Any, tolerance: float) -> str | None:
    """How `got` differs from `wanted` (tensors, numbers, or tuples of them), None if it does not."""
    if isinstance(wanted, tuple):
        if not isinstance(got, tuple) or len(got) != len(wanted):
            return f"{len(wanted)} results are wanted, as a tuple"
        return next((d for g, w in zip(got, wanted, strict=True) if (d := _difference(g, w, tolerance))), None)
    try:
        got, wanted = torch.as_tensor(got).double(), torch.as_tensor(wanted).double()
    except (TypeError, ValueError, RuntimeError):
        return f"a tensor or a number is wanted, got {type(got).__name__}"
    if got.shape != wanted.shape:
        return f"the result has shape {list(got.shape)}, wanted {list(wanted.shape)}"
    bad = (
        ~((got - wanted).abs() <= tolerance * wanted.abs().amax())
        if wanted.numel()
        else torch.zeros(0, dtype=torch.bool)
    )
    bad &= ~((got == wanted) | (got.isnan() & wanted.isnan()))
    if not bad.any():
        return None
    at = tuple(bad.nonzero()[0].tolist())
    return f"{'at ' + str(list(at)) + ' ' if at else ''}got {got[at]:.6g}, wanted {wanted[at]:.6g}"


_EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, cases: Cases, tolerance: float = 0.0) -> Callable[[Callable], Callable]:
    """Decorator of an oracle: makes it the exercise `name` ("grids.round_trip": a module of qlab.exercises, a name)."""

    def add(oracle: Callable) -> Callable:
        _EXERCISES[name] = Exercise(name, oracle, cases, tolerance)
        return oracle

    return add


def get_exercise(name: str) -> Exercise:
    """The exercise called `name`."""
    try:
        importlib.import_module(f"qlab.exercises.{name.split('.')[0]}")
    except ModuleNotFoundError as error:
        raise QlabError(f"unknown exercise {name!r}: names look like grids.round_trip") from error
    if name not in _EXERCISES:
        raise QlabError(f"unknown exercise {name!r}: known here: {', '.join(_EXERCISES)}")
    return _EXERCISES[name]


def check(name: str, attempt: Callable[..., Any]) -> Verdict:
    """Judge a learner's function: `check("grids.round_trip", my_function)`."""
    return get_exercise(name).check(attempt)
