"""The tests that exercises share: import them beside NAME, LESSON, `attempt` and WRONG (mistake → its keywords)."""

from qlab.exercises import check
from tests.exercises.notebook_cells import function, tagged


def in_lesson(module, tag):
    """The function that the lesson's cell defines; it is called as the exercise is."""
    return function(tagged(module.LESSON, tag), module.NAME.partition(".")[2])


def test_the_stub_fails(request):
    verdict = check(request.module.NAME, in_lesson(request.module, "exercise-stub"))
    assert not verdict
    assert "stub" in verdict.complaint


def test_the_solution_passes(request):
    assert check(request.module.NAME, in_lesson(request.module, "exercise-solution"))


def test_the_helper_without_a_mistake_passes(request):
    assert check(request.module.NAME, request.module.attempt)


def test_a_plausible_mistake_fails(request, mistake):
    attempt, wrong = request.module.attempt, request.module.WRONG[mistake]
    assert not check(request.module.NAME, lambda *given: attempt(*given, **wrong))
