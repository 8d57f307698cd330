"""Verdicts: right answers pass, wrong ones get the first counterexample in words."""

import pytest
import torch

from qlab.errors import QlabError
from qlab.exercises.core import Exercise, get_exercise


def cases(generator: torch.Generator):
    yield "random numbers", (torch.randn(4, generator=generator),)
    yield "zeros", (torch.zeros(3),)


DOUBLE = Exercise("demo.double", lambda x: x * 2, cases)
PAIR = Exercise("demo.pair", lambda x: (x, x.sum()), cases)


def stub(x):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (stub, "the stub is still there"),
        (lambda x: x[9], "it raised IndexError"),
        (lambda x: x * 3, r"random numbers: at \[0\] got .*, wanted "),
        (lambda x: x[:2] * 2, r"shape \[2\], wanted \[4\]"),
        (lambda x: "two", "a tensor or a number is wanted, got str"),
        (lambda x: x * 2 if x.any() else torch.full((3,), torch.nan), "zeros: at .* got nan, wanted 0"),
    ],
)
def test_wrong_attempts_get_a_counterexample(attempt, words: str) -> None:
    import re

    verdict = DOUBLE.check(attempt)
    assert not verdict and repr(verdict).startswith("✗ demo.double: ") and re.search(words, repr(verdict))


def test_right_attempts_pass() -> None:
    assert repr(DOUBLE.check(lambda x: x + x)) == "✓ demo.double: correct on all 2 inputs"
    assert PAIR.check(lambda x: (x, x.sum()))
    assert "as a tuple" in repr(PAIR.check(lambda x: x))


def test_an_attempt_cannot_disturb_the_oracle() -> None:
    def in_place(x):
        return x.mul_(2)

    assert DOUBLE.check(in_place)


def test_tolerance_is_relative_to_the_largest_value() -> None:
    close = Exercise("demo.close", lambda x: x, cases, tolerance=1e-3)
    assert close.check(lambda x: x * (1 + 5e-4)) and not close.check(lambda x: x * (1 + 5e-3))


def test_unknown_exercises_say_what_names_look_like() -> None:
    with pytest.raises(QlabError, match=r"names look like grids\.round_trip"):
        get_exercise("nothing.at_all")
