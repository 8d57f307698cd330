"""A dot product instruction by instruction, in rows and in tiles: which number is in which lane of the register."""

from __future__ import annotations

from typing import Any

import torch
import traitlets

from qlab import lanes
from qlab.errors import QlabError
from qlab.fixtures import Fixture
from qlab.methods import quantize
from qlab.widgets.base import Widget, module

SPEC = "int4-g32-sym"


class Lanes(Widget):
    """Two layouts, two instruction sets, and a slider through the instructions; the registers as a table of lanes."""

    _esm = module("lanes.js")
    source = traitlets.Unicode().tag(sync=True)
    programs: Any = traitlets.Dict().tag(sync=True)  # "rows AVX2" and so on: see `listed`
    memory: Any = traitlets.Dict().tag(sync=True)  # inputs, scales, one; and data, the codes' bytes by layout
    first: Any = traitlets.Int(0).tag(sync=True)  # the instruction shown at the start


def block_of(fixture: Fixture, row: int = 0, column: int = 0, token: int = 0) -> lanes.Memory:
    """Eight rows by 32 columns of a fixture's weights at int4-g32-sym, and one of its inputs in 8 bits."""
    rows, columns = fixture.shape
    if not (0 <= row <= rows - lanes.ROWS and 0 <= column <= columns - lanes.COLUMNS and column % lanes.COLUMNS == 0):
        raise QlabError(f"{fixture.name} has no block of 8 × 32 at row {row}, column {column}")
    Q = quantize(fixture.W[row : row + lanes.ROWS], SPEC, "rtn")
    assert isinstance(Q.scale, torch.Tensor)
    part = slice(column, column + lanes.COLUMNS)
    x = fixture.X[token, part].float()
    peak = x.abs().amax()
    codes = torch.round(x * (torch.tensor(127.0) / peak)).to(torch.int8)
    scale = Q.scale[:, column // lanes.COLUMNS].float()
    return lanes.Memory(Q.codes[:, part].tolist(), codes.tolist(), scale[:, None].tolist(), [float(peak / 127)])


def listed(layout: str, isa: str) -> list[list[Any]]:
    """A program as lists: name, operation, kind, register written, those read, at, row, lanes alive, quad of columns.

    row and quad are -1 where the lanes differ in them.
    """
    found, quad = [], -1
    for step in lanes.program(layout, isa):
        row = step.rows[0] if len(set(step.rows)) == 1 else -1
        if layout == "tiles":
            quad = _quad(step, quad)
        found.append([step.name, step.operation, step.kind, step.out, list(step.reads), step.at, row, step.alive, quad])
    return found


def _quad(step: lanes.Instruction, before: int) -> int:
    """The four columns at which a program of tiles is."""
    if step.operation == "whole":
        return step.at // 16
    if step.operation == "shift":
        return before + 1
    return -1 if step.operation == "madd" or step.kind == "scale" else before


def lane_view(fixture: Fixture, row: int = 0, column: int = 0, token: int = 0) -> Lanes:
    """The widget for one block of a fixture."""
    memory = block_of(fixture, row, column, token)
    programs = {f"{layout} {isa}": listed(layout, isa) for layout in lanes.LAYOUTS for isa in lanes.SETS}
    return Lanes(
        source=f"{fixture.name}, rows {row}–{row + 7}, columns {column}–{column + 31}, at 4 bits.",
        programs=programs,
        memory={
            "inputs": list(memory.inputs),
            "scales": [list(scales) for scales in memory.scales],
            "one": list(memory.one),
            "data": {layout: lanes.packed(memory.codes, layout) for layout in lanes.LAYOUTS},
        },
        first=next(k for k, step in enumerate(programs["rows AVX2"]) if step[1] == "maddubs"),
    )
