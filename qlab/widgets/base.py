"""What every widget shares: one look in light and dark, one set of drawing helpers, frames computed in Python."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import anywidget

JS = Path(__file__).parent / "js"
SHARED = ("quant.js", "draw.js")


@cache
def module(name: str) -> str:
    """The ES module of one widget with what it imports in front: one self-contained text, as a static page needs.

    `js/quant.js` (arithmetic a reader could do by hand, tested equal to Python) and `js/draw.js` (controls and SVG) are
    modules of their own, so that tests import them; so may be others. Here their exports and the widget's
    imports of them fall away.
    """
    text = (JS / name).read_text()
    files = dict.fromkeys([*SHARED, *re.findall(r'^import .*? from "\./(\w+\.js)";$', text, re.M)])
    shared = "\n".join((JS / file).read_text() for file in files)
    body = re.sub(r'^import .*? from "\./\w+\.js";\n', "", text, flags=re.M | re.S)
    return re.sub(r"^export (?=function|const)", "", shared, flags=re.M) + body


@cache
def style() -> str:
    """The stylesheet of all widgets."""
    return (JS / "widget.css").read_text()


class Widget(anywidget.AnyWidget):
    """A view over precomputed frames: it needs no kernel, so it stays alive in the static book.

    A subclass sets `_esm = module("its.js")` and declares its frames as traits tagged `sync=True`, holding plain lists
    rounded to four digits, so that a saved notebook is small and the same on every machine.
    """

    _css = style()
