"""Exercises: a learner's function against an oracle, on random and adversarial inputs."""

from qlab.exercises.core import Exercise, Verdict, check, exercise

__all__ = ["Exercise", "Verdict", "check", "exercise"]
