"""Registries and plugins: found by name, options checked, broken files named."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from qlab.errors import QlabError
from qlab.registry import Registry, load_plugin


def colours() -> Registry:
    registry: Registry = Registry("colour")

    @registry.register("red")
    @dataclass(frozen=True)
    class Red:
        shade: float = 0.5

    return registry


def test_get_builds_with_options() -> None:
    red = colours().get("red", shade=0.25)
    assert red.shade == 0.25 and red.name == "red" and colours().names() == ["red"]


def test_mistakes_are_named() -> None:
    with pytest.raises(QlabError, match="unknown colour 'rad': did you mean red"):
        colours().get("rad")
    with pytest.raises(QlabError, match="unknown pass 'x': known: none yet"):
        Registry("pass").get("x")
    with pytest.raises(QlabError, match="colour 'red' has no option 'hue': it takes shade"):
        colours().get("red", hue=1)


def test_broken_plugins_are_named(tmp_path: Path) -> None:
    with pytest.raises(QlabError, match="does not exist"):
        load_plugin(tmp_path / "none.py")
    anything = tmp_path / "notes.txt"
    anything.write_text("not Python at all")
    with pytest.raises(QlabError, match="notes.txt failed to load: SyntaxError"):
        load_plugin(anything)
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    with pytest.raises(QlabError, match="broken.py failed to load: ZeroDivisionError"):
        load_plugin(broken)
