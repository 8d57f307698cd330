import pytest

from qlab.progress import track


def test_track_yields_everything_under_a_named_bar(capsys, monkeypatch):
    monkeypatch.delenv("QLAB_PROGRESS", raising=False)
    assert list(track("abc", 3, "letters")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert "letters: 100%" in err
    assert out == ""


@pytest.mark.parametrize("silence", ["environment", "argument"])
def test_a_bar_can_be_silenced(capsys, monkeypatch, silence):
    if silence == "environment":
        monkeypatch.setenv("QLAB_PROGRESS", "0")
    assert list(track("abc", 3, "letters", enabled=silence != "argument")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
