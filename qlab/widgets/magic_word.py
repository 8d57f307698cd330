"""One 32-bit word of eight codes on its way to float16, by the magic number and by the plain way."""

from __future__ import annotations

from typing import Any

import torch
import traitlets

from qlab import halves
from qlab.errors import QlabError
from qlab.fixtures import Fixture
from qlab.methods import quantize
from qlab.widgets.base import Widget, module

SPEC = "int4-g128-sym"


class MagicWord(Widget):
    """Two programs, a slider through the instructions, and the word's bits, which can be turned over."""

    _esm = module("magic_word.js")
    source = traitlets.Unicode().tag(sync=True)
    programs: Any = traitlets.Dict().tag(sync=True)  # way → instructions: name, operation, out, reads, constants, codes
    word: Any = traitlets.Int().tag(sync=True)
    scale: Any = traitlets.Float().tag(sync=True)  # exact in float16


def listed(way: str) -> list[list[Any]]:
    """A program as lists, for the widget's JavaScript."""
    return [
        [step.name, step.operation, step.out, list(step.reads), list(step.constants), list(step.codes)]
        for step in halves.program(way)
    ]


def magic_word(fixture: Fixture, row: int = 0, column: int = 0) -> MagicWord:
    """The widget for eight weights of a fixture, columns `column` … `column + 7` of a row, at int4-g128-sym."""
    rows, columns = fixture.shape
    if not (0 <= row < rows and 0 <= column <= columns - 8 and column % 8 == 0):
        raise QlabError(f"{fixture.name} has no word of eight columns at row {row}, column {column}")
    Q = quantize(fixture.W[row : row + 1], SPEC, "rtn")
    assert isinstance(Q.scale, torch.Tensor)
    scale = float(Q.scale[0, column // 128].half())
    return MagicWord(
        source=f"{fixture.name}, row {row}, columns {column}–{column + 7}, at 4 bits; scale {scale:.4g}.",
        programs={way: listed(way) for way in halves.WAYS},
        word=halves.pack(Q.codes[0, column : column + 8].tolist()),
        scale=scale,
    )
