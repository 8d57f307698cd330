"""Each lesson in a real JupyterLab: opened, run, and its widgets moved.

The first lesson runs from top to bottom, as its reader does it. The others run up to their widget: nbval runs the rest
of them, output by output.
"""

import re
from pathlib import Path

import nbformat
import pytest
from browser import unmoved_sliders
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

LESSONS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))
OPEN_MS = 60_000
RUN_MS = 300_000  # a lesson takes under a minute warm; the browser shares the two cores with its kernel

# Per code cell: its prompt (a folded solution shows none), and whether an error stands below it.
CELLS = """() => [...document.querySelectorAll(".jp-Notebook .jp-CodeCell")].map(cell => ({
    prompt: cell.querySelector(".jp-InputPrompt")?.innerText ?? "",
    folded: cell.querySelector(".jp-Placeholder") !== null,
    failed: cell.querySelector("[data-mime-type='application/vnd.jupyter.error']") !== null,
}))"""
FINISHED = f"""expected => {{
    const cells = ({CELLS})();
    const stopped = cells.some((cell, index) => cell.failed && !expected.includes(index));
    return stopped || (cells.length > 0 && cells.every(cell => cell.folded || /\\[\\d+\\]/.test(cell.prompt)));
}}"""


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_lesson_runs_and_its_widgets_move(lesson, lab, page):
    failures_shown = copy_without_outputs(lesson, lab.root / lesson.name)
    open_notebook(page, lab.address(lesson.name))
    run_all(page)
    page.wait_for_function(FINISHED, arg=failures_shown, timeout=RUN_MS)
    assert [index for index, cell in enumerate(page.evaluate(CELLS)) if cell["failed"]] == failures_shown
    widgets = page.locator(".jp-OutputArea-output .qlab-widget")
    expect(widgets.first).to_be_visible(timeout=OPEN_MS)
    assert unmoved_sliders(page, widgets) == []


def copy_without_outputs(source, target) -> list[int]:
    """Copy a notebook with nothing run yet; return the numbers of the code cells that are meant to raise."""
    notebook = nbformat.read(source, as_version=4)
    if source != LESSONS[0]:
        end = next(i for i, cell in enumerate(notebook.cells) if "## By hand" in cell.source)
        notebook.cells = notebook.cells[:end]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, target)
    return [index for index, cell in enumerate(cells) if "raises-exception" in cell.metadata.get("tags", [])]


def open_notebook(page, address: str) -> None:
    """Open the notebook and wait for its kernel.

    The notebook's own indicator says idle before there is a kernel, and a Run All sent then is lost;
    the status bar names the kernel as well.
    """
    page.goto(address)
    page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook").wait_for(timeout=OPEN_MS)
    status = page.locator(".jp-StatusBar-TextItem", has_text=re.compile(r"\(ipykernel\) \| Idle"))
    expect(status).to_be_visible(timeout=OPEN_MS)


def run_all(page) -> None:
    """Choose Run All Cells from the menu."""
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
