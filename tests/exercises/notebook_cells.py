"""The code of a lesson's exercise, by tag, so that tests judge what the learner sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def all_tagged(lesson: str, tag: str) -> list[str]:
    """Sources of the cells of notebooks/<lesson>*.ipynb that carry `tag`, in order."""
    (path,) = NOTEBOOKS.glob(f"{lesson}*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if tag in cell.metadata.get("tags", [])]


def tagged(lesson: str, tag: str) -> str:
    """Source of the one cell of notebooks/<lesson>*.ipynb that carries `tag`."""
    (source,) = all_tagged(lesson, tag)
    return source


def function(source: str, name: str) -> Callable[..., Any]:
    """The function called `name` after running `source` with torch and math at hand, as in the lessons."""
    space: dict[str, Any] = {}
    exec("import math\nimport torch\nfrom torch import Tensor\n" + source, space)
    return space[name]
