"""What book/build.py does before Sphinx: nothing it does not have to, and nothing in silence."""

import importlib.util
import json

import pytest
from shots import HTML

BOOK = HTML.parents[1]


@pytest.fixture
def build(monkeypatch, tmp_path):
    """The module, writing its vendored files into a temporary folder."""
    spec = importlib.util.spec_from_file_location("book_build", BOOK / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENDOR", tmp_path / "vendor")
    return module


def packages(build, monkeypatch, tmp_path) -> list[str]:
    """Stand-ins for npm and its packages; the list returned grows by one word with each install."""
    installs = []
    source = tmp_path / "node_modules" / "requirejs"
    source.mkdir(parents=True)
    (source / "require.js").write_text("// require.js")
    monkeypatch.setattr(build, "NPM", tmp_path / "node_modules")
    monkeypatch.setattr(build, "NPM_FILES", {"": ("requirejs", ("require.js",))})
    monkeypatch.setattr(build, "npm_install", lambda: installs.append("install"))
    return installs


def test_vendored_once_while_the_stamp_holds(build, monkeypatch, tmp_path):
    installs = packages(build, monkeypatch, tmp_path)
    build.vendor()
    build.vendor()
    assert installs == ["install"]
    assert {path.name for path in build.VENDOR.iterdir()} == {"require.js", "plotly.min.js", "widgets", "stamp"}


def test_vendored_again_when_the_stamp_changes(build, monkeypatch, tmp_path):
    installs = packages(build, monkeypatch, tmp_path)
    build.vendor()
    monkeypatch.setattr(build, "stamp", lambda: "another lock file")
    build.vendor()
    assert installs == ["install", "install"]


def test_a_missing_file_stops_and_leaves_the_old_folder(build, monkeypatch, tmp_path):
    packages(build, monkeypatch, tmp_path)
    build.vendor()
    before = (build.VENDOR / "stamp").read_text()
    monkeypatch.setattr(build, "stamp", lambda: "another lock file")
    monkeypatch.setattr(build, "NPM_FILES", {"": ("requirejs", ("gone.js",))})
    with pytest.raises(SystemExit, match=r"nothing matches gone\.js"):
        build.vendor()
    assert (build.VENDOR / "stamp").read_text() == before


def test_without_node_the_message_says_what_to_install(build, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="install Node"):
        build.npm_install()


def test_the_lock_pins_what_the_book_asks_for_and_names_no_registry():
    asked = json.loads((BOOK / "package.json").read_text())["dependencies"]
    locked = json.loads((BOOK / "package-lock.json").read_text())["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in asked} == asked
    assert all("resolved" not in package for package in locked.values())
    assert all("integrity" in package for name, package in locked.items() if name)
