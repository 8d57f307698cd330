"""Run notebooks in place and keep what is stable: `python scripts/execute_notebooks.py notebooks/01_*.ipynb`.

Outputs and the state of widgets are stored, as the book shows them without a kernel; what differs from run to run
(timestamps, the version of the kernel, random ids of widgets) is not. A notebook that fails is left as it was.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

TIMEOUT = 300  # seconds for one cell: a lesson has 60 in all, a busy machine needs room
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


def quiet_environment(folder: str) -> None:
    """What the kernel inherits: no progress bars, and predictions that do not touch the user's own."""
    os.environ["QLAB_PROGRESS"] = "0"
    os.environ["QLAB_PREDICTIONS"] = str(Path(folder) / "predictions.json")
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else the kernel's debugger warns on stderr


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """A copy of `notebook` with the outputs of a fresh kernel that was started in `folder`."""
    fresh = copy.deepcopy(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    fresh.metadata.pop("widgets", None)
    NotebookClient(
        fresh,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=True,
    ).execute()
    return stable(fresh)


def stable(notebook: NotebookNode) -> NotebookNode:
    """`notebook` without what no reader needs and every run changes; widget ids are numbered by appearance."""
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for volatile in ("execution", "ExecuteTime"):
            cell.metadata.pop(volatile, None)
    text = json.dumps(notebook)
    for number, model in enumerate(widget_ids(notebook)):
        text = text.replace(model, f"{number:032x}")
    text = re.sub(r"\b0x[0-9a-f]{6,16}\b", "0x000000000000", text)  # addresses in the repr of objects
    return nbformat.from_dict(json.loads(text))


def widget_ids(notebook: NotebookNode) -> Iterator[str]:
    """Ids of the widget models in the order they were made, which a kernel repeats."""
    yield from notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})


def write(notebook: NotebookNode, path: Path) -> None:
    """Replace the file at `path` in one step, so that a full disk cannot leave half a lesson."""
    nbformat.validate(notebook)
    aside = path.with_suffix(".partial")
    nbformat.write(notebook, aside)
    aside.replace(path)


def run(path: Path) -> str | None:
    """Execute the notebook at `path` in place; None when it worked, else what went wrong in which cell."""
    if not path.is_file():
        return f"{path}: there is no such notebook"
    started = time.monotonic()
    try:
        notebook = nbformat.read(path, as_version=4)
        write(execute(notebook, path.parent), path)
    except nbformat.reader.NotJSONError:
        return f"{path}: not a notebook (its JSON cannot be read)"
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return f"{path}: left as it was, a cell failed\n{error}"
    print(f"{path}: {time.monotonic() - started:.1f} s, {path.stat().st_size / 1000:.0f} kB")
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run every notebook named on the command line; the exit code is 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path, metavar="notebook.ipynb")
    paths = parser.parse_args(arguments).notebooks
    with tempfile.TemporaryDirectory() as folder:
        quiet_environment(folder)
        failures = [failure for path in paths if (failure := run(path))]
    print("\n".join(failures), file=sys.stderr, end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
