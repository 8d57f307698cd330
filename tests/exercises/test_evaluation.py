"""Lesson 03's exercise: the oracle is qlab.evaluate's error, the stub fails, the solution passes, near misses fail."""

import math

import pytest
import torch

from qlab.exercises.core import get_exercise
from qlab.exercises.evaluation import paired_ratio
from qlab.metrics import WindowMean, exp_with_se
from tests.exercises.notebook_cells import function, tagged

EXERCISE = get_exercise("evaluation.paired_ratio")


def attempt(tag):
    return function(tagged("03", tag), "paired_ratio")


def test_the_stub_fails():
    verdict = EXERCISE.check(attempt("exercise-stub"))
    assert not verdict
    assert "the stub is still there" in repr(verdict)


def test_the_solution_passes():
    assert EXERCISE.check(attempt("exercise-solution"))


@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_is_the_error_of_evaluate(seed):
    losses, reference = torch.rand(2, 7, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    running = WindowMean()
    for window in losses - reference:
        running.add(window)
    assert paired_ratio(losses, reference) == pytest.approx(exp_with_se(running), rel=EXERCISE.tolerance)


def log_difference(losses, reference):
    return losses - reference


def unclustered(losses, reference):
    d = log_difference(losses, reference)
    ratio = d.mean().exp()
    return ratio, ratio * d.std() / math.sqrt(d.numel()) if len(d) > 1 else math.nan


def population_deviation(losses, reference):
    means = log_difference(losses, reference).mean(1)
    ratio = means.mean().exp()
    return ratio, ratio * means.std(correction=0) / math.sqrt(len(means)) if len(means) > 1 else math.nan


def unpaired(losses, reference):
    a, b = losses.mean(1), reference.mean(1)
    ratio = (a.mean() - b.mean()).exp()
    return ratio, ratio * torch.hypot(a.std(), b.std()) / math.sqrt(len(a))


def mean_of_ratios(losses, reference):
    ratios = log_difference(losses, reference).mean(1).exp()
    return ratios.mean(), ratios.std() / math.sqrt(len(ratios))


def ratio_of_losses(losses, reference):
    ratios = losses.mean(1) / reference.mean(1)
    return losses.mean() / reference.mean(), ratios.std() / math.sqrt(len(ratios))


def error_of_the_logarithm(losses, reference):
    means = log_difference(losses, reference).mean(1)
    return means.mean().exp(), means.std() / math.sqrt(len(means))


def deviation_instead_of_error(losses, reference):
    means = log_difference(losses, reference).mean(1)
    return means.mean().exp(), means.mean().exp() * means.std()


def divided_by_tokens(losses, reference):
    means = log_difference(losses, reference).mean(1)
    return means.mean().exp(), means.mean().exp() * means.std() / math.sqrt(losses.numel())


def upside_down(losses, reference):
    means = log_difference(reference, losses).mean(1)
    return means.mean().exp(), means.mean().exp() * means.std() / math.sqrt(len(means))


def certain_of_one_window(losses, reference):
    means = log_difference(losses, reference).mean(1)
    ratio = means.mean().exp()
    return ratio, ratio * means.std() / math.sqrt(len(means)) if len(means) > 1 else 0.0


WRONG = [
    unclustered,
    population_deviation,
    unpaired,
    mean_of_ratios,
    ratio_of_losses,
    error_of_the_logarithm,
    deviation_instead_of_error,
    divided_by_tokens,
    upside_down,
    certain_of_one_window,
]


@pytest.mark.parametrize("wrong", WRONG)
def test_near_misses_fail(wrong):
    verdict = EXERCISE.check(wrong)
    assert not verdict
    assert "raised" not in verdict.complaint
