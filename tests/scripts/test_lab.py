"""The command line that opens JupyterLab: where it listens, and what it does without a display or as root."""

from pathlib import Path

import pytest

from scripts import lab

LESSON = Path("notebooks/00_start.ipynb")


def test_localhost_with_the_token_jupyter_makes():
    line = lab.command(LESSON, display=True, root=False)
    assert "--ServerApp.ip=127.0.0.1" in line
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start.ipynb" in line
    assert [word for word in line if "token" in word.lower() or "password" in word.lower()] == []


@pytest.mark.parametrize(("display", "root"), [(True, False), (True, True), (False, False), (False, True)])
def test_no_browser_without_a_display_and_root_only_when_root(display: bool, root: bool):
    line = lab.command(LESSON, display=display, root=root)
    assert ("--no-browser" in line) is not display
    assert ("--allow-root" in line) is root


DISPLAYS = [
    ({}, "linux", False),
    ({"DISPLAY": ":0"}, "linux", True),
    ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
    ({}, "darwin", True),
]


@pytest.mark.parametrize(("env", "platform", "shown"), DISPLAYS)
def test_where_a_browser_can_show_itself(env: dict[str, str], platform: str, shown: bool):
    assert lab.has_display(env, platform) is shown


def test_a_missing_lesson_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(lab, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"notebooks/00_\*\.ipynb is missing"):
        lab.first_lesson()
