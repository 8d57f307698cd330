"""Draining a generator of Steps gives what it returns."""

from qlab.step import Step, Steps, drain


def counting(n: int) -> Steps[str]:
    for i in range(n):
        yield Step("count", i, n, 0.0)
    return f"counted {n}"


def test_drain_returns_what_the_generator_returns() -> None:
    assert drain(counting(3)) == "counted 3" and drain(counting(0)) == "counted 0"


def test_a_step_prints_without_its_tensors() -> None:
    assert repr(next(counting(2))) == "Step(name='count', index=0, total=2, error=0.0, columns=None)"
