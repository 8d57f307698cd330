"""Predictions: what a learner commits before seeing, kept on their own machine and compared at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import platformdirs

from qlab.errors import QlabError


def predictions_file() -> Path:
    """Where predictions are kept: $QLAB_PREDICTIONS, or the user's data folder."""
    return Path(os.environ.get("QLAB_PREDICTIONS") or Path(platformdirs.user_data_dir("qlab")) / "predictions.json")


def predict(question: str, answer: float | str | list[str]) -> str:
    """Commit `answer` (a number, a choice, or a ranking) to `question`; says what was kept."""
    file = predictions_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(_read(file) | {question: answer}, indent=1))
        aside.replace(file)
    except OSError as error:
        raise QlabError(
            f"cannot keep predictions in {file}: {error.strerror}; set QLAB_PREDICTIONS to a file"
        ) from error
    return f"Noted: {_words(answer)}. We come back to it at the end."


def reveal(question: str, measured: float | str | list[str], unit: str = "") -> str:
    """Put the prediction beside what was measured."""
    answer = _read(predictions_file()).get(question)
    if answer is None:
        return f"Measured: {_words(measured)}{unit}. (No prediction yet: run the cell at the top.)"
    return (
        f"You said {_words(answer)}{unit}; measured {_words(measured)}{unit}. {_judgement(answer, measured)}".rstrip()
    )


def _judgement(answer: float | str | list[str], measured: float | str | list[str]) -> str:
    if isinstance(answer, int | float) and isinstance(measured, int | float):
        if not answer or not measured or (answer < 0) != (measured < 0):
            return ""
        factor = max(answer / measured, measured / answer)
        return "Spot on." if factor < 1.1 else f"Off by a factor of {factor:.2g}."
    return "Right." if answer == measured else "Not quite."


def _words(answer: float | str | list[str]) -> str:
    if isinstance(answer, list):
        return ", then ".join(answer)
    return f"{answer:.4g}" if isinstance(answer, float) else str(answer)


def _read(file: Path) -> dict:
    """All predictions so far; a damaged file counts as none, it is only a learner's notes."""
    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
