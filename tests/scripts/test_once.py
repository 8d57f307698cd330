"""scripts/once.py: a phase that passed is skipped on the same files only, and a failure is never remembered."""

import importlib.util
import subprocess
import sys

import pytest


@pytest.fixture
def once(root, tmp_path, monkeypatch):
    """The script, at work on a small repository of its own."""
    spec = importlib.util.spec_from_file_location("once", root / "scripts" / "once.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text(".venv\n")
    (tmp_path / "source.py").write_text("1")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "qlab-setup").write_text("environment")
    monkeypatch.delenv("AGAIN", raising=False)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "STAMPS", tmp_path / ".venv")
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / ".venv" / "qlab-setup")
    return module


def count(once, code=0):
    """Run a phase that counts its runs outside the tree; its exit code and how often it ran so far."""
    log = once.STAMPS / "log"
    command = (sys.executable, "-c", f"open({str(log)!r}, 'a').write('x'); raise SystemExit({code})")
    return once.main("phase", *command), len(log.read_text()) if log.exists() else 0


def test_runs_once_on_the_same_files(once):
    assert count(once) == (0, 1)
    assert count(once) == (0, 1)


def test_any_change_runs_it_again(once):
    count(once)
    (once.ROOT / "source.py").write_text("2")
    assert count(once) == (0, 2)
    (once.ROOT / "new.py").write_text("")
    assert count(once) == (0, 3)
    once.ENVIRONMENT.write_text("other")
    assert count(once) == (0, 4)
    (once.ROOT / "source.py").unlink()
    assert count(once) == (0, 5)


def test_again_runs_it_in_any_case(once, monkeypatch):
    count(once)
    monkeypatch.setenv("AGAIN", "1")
    assert count(once) == (0, 2)


def test_a_failure_is_not_remembered(once):
    assert count(once, 3) == (3, 1)
    assert count(once, 3) == (3, 2)


def test_a_failure_forgets_the_pass_before(once):
    count(once)
    (once.ROOT / "source.py").write_text("2")
    count(once, 1)
    (once.ROOT / "source.py").write_text("1")
    assert count(once) == (0, 3)


def test_without_git_nothing_is_skipped(once):
    import shutil

    shutil.rmtree(once.ROOT / ".git")
    assert count(once) == (0, 1)
    if not once.files():  # the temporary folder may lie inside another repository
        assert count(once) == (0, 2)
