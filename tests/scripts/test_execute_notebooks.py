"""Executing in place: the same file twice, and a notebook that fails stays as it was."""

import runpy
import subprocess
import sys

import nbformat
import pytest

CELLS = [
    "import os\nprint(os.environ['QLAB_PROGRESS'], 'predictions' in os.environ['QLAB_PREDICTIONS'])",
    "import anywidget\nanywidget.AnyWidget(_esm='export default {}')",
    "object()",
]


@pytest.fixture
def execute(root):
    script = root / "scripts" / "execute_notebooks.py"
    return lambda *paths: subprocess.run(
        [sys.executable, script, *paths], capture_output=True, text=True, check=False, timeout=120
    )


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_two_runs_write_the_same_bytes_and_keep_the_widget(execute, tmp_path):
    path = notebook(tmp_path / "a.ipynb", *CELLS)
    assert execute(path).returncode == 0
    first = path.read_bytes()
    assert execute(path).returncode == 0
    assert path.read_bytes() == first
    done = nbformat.read(path, as_version=4)
    assert done.cells[0].outputs[0].text == "0 True\n"
    view = done.cells[1].outputs[0].data["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] in done.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]


def test_a_failure_leaves_the_file_and_names_the_cell(execute, tmp_path):
    path = notebook(tmp_path / "a.ipynb", "1 + 1", "1 / 0")
    before = path.read_bytes()
    done = execute(path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr and "1 / 0" in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", [None, "not json"])
def test_what_is_no_notebook_is_named(root, tmp_path, text):
    path = tmp_path / "a.ipynb"
    if text:
        path.write_text(text)
    run = runpy.run_path(str(root / "scripts" / "execute_notebooks.py"))["run"]
    assert str(path) in run(path)
