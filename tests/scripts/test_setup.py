"""Setup: its stamp follows what decides the environment, and an interruption leaves none behind."""

import sys
from pathlib import Path

import pytest

from scripts import setup


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository with all that setup reads; every step is the given interpreter doing nothing."""
    for name, text in {"pyproject.toml": "a", "constraints.txt": "torch==1.0\n", "kernels/cpu/a.cpp": "int a;"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "VENV", tmp_path / ".venv")
    for name, file in {"PYTHON": "bin/python", "STAMP": "qlab-setup", "LOG": "setup.log"}.items():
        monkeypatch.setattr(setup, name, tmp_path / ".venv" / file)
    monkeypatch.setattr(setup, "steps", lambda: [("all of it", [sys.executable, "-c", make_python(tmp_path)])])
    return tmp_path


def make_python(clone: Path) -> str:
    """Code that leaves an interpreter in .venv and counts how often it ran."""
    return (
        f"import pathlib; p = pathlib.Path({str(clone / '.venv')!r}); (p / 'bin').mkdir(exist_ok=True);"
        "(p / 'bin/python').touch(); f = (p / 'runs').open('a'); f.write('x')"
    )


def runs(clone: Path) -> int:
    """How often the step ran."""
    return len((clone / ".venv" / "runs").read_text())


def test_the_second_run_does_nothing(clone: Path):
    setup.main()
    setup.main()
    assert runs(clone) == 1


@pytest.mark.parametrize("source", ["pyproject.toml", "constraints.txt", "kernels/cpu/a.cpp"])
def test_a_changed_source_sets_up_again(clone: Path, source: str):
    setup.main()
    (clone / source).write_text("torch==2.0\n")
    setup.main()
    assert runs(clone) == 2


def test_a_lost_interpreter_sets_up_again(clone: Path):
    setup.main()
    setup.PYTHON.unlink()
    setup.main()
    assert runs(clone) == 2


def test_a_failed_step_shows_its_output_and_leaves_no_stamp(clone: Path, monkeypatch: pytest.MonkeyPatch):
    setup.main()
    (clone / "pyproject.toml").write_text("b")
    failing = [sys.executable, "-c", "import sys; print('no such wheel'); sys.exit(1)"]
    monkeypatch.setattr(setup, "steps", lambda: [("qlab", failing)])
    with pytest.raises(SystemExit, match=r"(?s)1/1 qlab failed.*no such wheel"):
        setup.main()
    assert not setup.STAMP.exists()


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(setup.shutil, "which", lambda name: None if name.endswith("++") else f"/bin/{name}")
    with pytest.raises(SystemExit, match=r"no C\+\+ compiler found; install one"):
        setup.check_tools()


def test_an_old_python_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(setup.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"this is Python 3\.9; install 3\.11"):
        setup.check_tools()


def test_node_is_missed_but_not_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(setup.shutil, "which", lambda name: None if name in ("node", "npm") else f"/bin/{name}")
    setup.check_tools()
    assert "no Node.js here" in capsys.readouterr().out
