"""Thirty-two codes in words of 32 bits, at 1 to 8 bits, as a dense stream or in planes; and what reads one of them."""

from __future__ import annotations

from typing import Any

import traitlets

from qlab.errors import QlabError
from qlab.fixtures import Fixture
from qlab.methods import quantize
from qlab.widgets.base import Widget, module
from qlab.words import RUN

STRADDLING = 10
"""The code shown first: at 3 bits its bits lie in two words."""


class Packing(Widget):
    """A slider for the bits, two layouts, and a slider for the code that is read."""

    _esm = module("packing.js")
    source = traitlets.Unicode().tag(sync=True)
    codes: Any = traitlets.Dict().tag(sync=True)  # by bits, as text: 32 codes
    bits: Any = traitlets.Int(3).tag(sync=True)  # where the slider starts
    first: Any = traitlets.Int(STRADDLING).tag(sync=True)  # the code shown at the start


def codes_of(fixture: Fixture, bits: int, row: int = 0, column: int = 0) -> list[int]:
    """Codes of 32 weights of a fixture at int<bits>-g32-sym."""
    rows, columns = fixture.shape
    if not (0 <= row < rows and 0 <= column <= columns - RUN and column % RUN == 0):
        raise QlabError(f"{fixture.name} has no run of {RUN} weights at row {row}, column {column}")
    Q = quantize(fixture.W[row : row + 1, column : column + RUN], f"int{bits}-g{RUN}-sym", "rtn")
    return Q.codes[0].tolist()


def packing_view(fixture: Fixture, row: int = 0, column: int = 0) -> Packing:
    """The widget for 32 weights of a fixture, at every width."""
    return Packing(
        source=f"{fixture.name}, row {row}, columns {column}–{column + RUN - 1}, rounded at each width.",
        codes={str(bits): codes_of(fixture, bits, row, column) for bits in range(1, 9)},
    )
