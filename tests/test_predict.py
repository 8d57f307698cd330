"""Predictions: kept, compared, and never in the way."""

from pathlib import Path

import pytest

from qlab.errors import QlabError
from qlab.predict import predict, reveal


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "deep" / "predictions.json"
    monkeypatch.setenv("QLAB_PREDICTIONS", str(file))
    return file


def test_a_number_comes_back_with_its_distance() -> None:
    assert "Noted: 10." in predict("q", 10)
    assert reveal("q", 20.0, " %") == "You said 10 %; measured 20 %. Off by a factor of 2."
    predict("q", 20.5)
    assert reveal("q", 20.0).endswith("Spot on.")


def test_rankings_and_choices() -> None:
    predict("order", ["a", "b"])
    assert reveal("order", ["a", "b"]).endswith("Right.") and reveal("order", ["b", "a"]).endswith("Not quite.")


def test_without_a_prediction_the_measurement_still_shows() -> None:
    assert reveal("never asked", 3.0).startswith("Measured: 3.")


def test_a_damaged_file_loses_notes_only(own_file: Path) -> None:
    own_file.parent.mkdir(parents=True)
    own_file.write_text("{ nonsense")
    assert "No prediction yet" in reveal("q", 1.0)
    predict("q", 1.0)
    assert reveal("q", 1.0).endswith("Spot on.")


def test_nowhere_to_write_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QLAB_PREDICTIONS", str(tmp_path / "file" / "predictions.json"))
    with pytest.raises(QlabError, match="set QLAB_PREDICTIONS"):
        predict("q", 1.0)
