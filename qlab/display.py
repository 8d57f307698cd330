"""How qlab's types show themselves: a small HTML card in Jupyter, plain text in a terminal.

A type of a higher floor needs no import here. It takes part by having `title: str`, `facts() -> dict` for one
line of totals, and `table() -> list[dict]` for rows (see `Shown`). Underscores in keys become spaces; a key
that ends in `_bytes` is a size. Numbers have 4 significant digits: they print the same everywhere.
"""

import io
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from html import escape
from typing import Any, Protocol

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from qlab.grid import Grid
from qlab.memory import MemoryEstimate
from qlab.qtensor import QTensor, QuantError
from qlab.spec import RULES, QuantSpec

WIDTH = 110
"""Characters of a text table, whatever the terminal: output has to be the same everywhere."""

MAX_ROWS = 12
"""Rows of a card; a longer table shows its first and last ones. `table_text` and `table_html` show all."""

HIGHER = {
    "qlab.recipes.rules": ("Recipe", "Resolution"),
    "qlab.report": ("RunReport",),
    "qlab.evaluate": ("Evaluation",),
    "qlab.compare": ("Comparison",),
    "qlab.inspection": ("Inspection",),
}
"""Shown types of higher floors, by module: IPython matches them by name."""

PICTURE = (320, 48)
"""Width and height of a drawing in pixels."""

REFERENCE_SHAPE = (4096, 4096)
"""A matrix large enough for a spec's bits per weight to be free of edges."""

ACRONYMS = {"mse": "MSE", "snr": "SNR", "db": "dB", "kl": "KL", "se": "SE", "kv": "KV"}

Rows = Sequence[Mapping[str, Any]]


class Shown(Protocol):
    """What an object needs to be displayed."""

    @property
    def title(self) -> str:
        """One line above the card."""

    def facts(self) -> Mapping[str, Any]:
        """Totals, by name, for one line."""

    def table(self) -> Rows:
        """Rows, dictionaries with the columns as keys."""


def html(shown: Any) -> str:
    """The card of an object: title, facts, picture, table."""
    title, facts, rows = _parts(shown)
    head = f"<div><b>{escape(title)}</b></div>" if title else ""
    line = " · ".join(_fact(name, value) for name, value in facts.items())
    body = table_html(_shortened(rows)) if rows else ""
    return f'<div style="line-height:1.6">{head}<div>{line}</div>{picture(shown)}{body}</div>'


def text(shown: Any, whole: bool = False) -> str:
    """The same card for a terminal, without the picture; `whole` shows every row of a long table."""
    title, facts, rows = _parts(shown)
    line = " · ".join(f"{_header(k)} {_cell(k, v)}" for k, v in facts.items())
    body = table_text(rows if whole else _shortened(rows)) if rows else ""
    return "\n".join(part for part in (title, line, body) if part)


def table_html(rows: Rows, columns: Sequence[str] | None = None) -> str:
    """Rows as an HTML table in the colours of the page; `columns` default to all keys, in order."""
    keys = columns or _columns(rows)
    edge = "border-bottom:1px solid rgba(128,128,128,.35)"
    aligned = {k: f"text-align:{_align(rows, k)};padding:.15em .7em" for k in keys}
    head = "".join(f'<th style="{aligned[k]};{edge}">{escape(_header(k))}</th>' for k in keys)
    lines = ([f'<td style="{aligned[k]}">{escape(_cell(k, row.get(k)))}</td>' for k in keys] for row in rows)
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    style = "border-collapse:collapse;color:inherit;background:transparent;font-variant-numeric:tabular-nums"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def table_text(rows: Rows, columns: Sequence[str] | None = None, width: int = WIDTH) -> str:
    """Rows as plain text, `width` characters at most, without colour or trailing spaces."""
    keys = columns or _columns(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # the first column names the row: it keeps its width, and the headers of the others wrap instead
    longest = max((len(_cell(keys[0], row.get(keys[0]))) for row in rows), default=0)
    for key in keys:
        width_of_names = min(longest, width // 2) if key == keys[0] else None
        table.add_column(_header(key), justify=_align(rows, key), overflow="fold", min_width=width_of_names)
    for row in rows:
        table.add_row(*(_cell(key, row.get(key)) for key in keys))
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, force_jupyter=False, markup=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def register() -> None:
    """Teach a running IPython to show qlab's types. Does nothing outside IPython, and never imports it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    for mime, show in (("text/html", html), ("text/plain", _pretty)):
        for kind in (QTensor, QuantError, QuantSpec, Grid, MemoryEstimate):
            formatters[mime].for_type(kind, show)
        for module, names in HIGHER.items():
            for name in names:
                formatters[mime].for_type_by_name(module, name, show)


def _pretty(shown: Any, printer: Any, cycle: bool) -> None:
    """IPython's protocol for text: inside a container the short repr, on its own the card."""
    printer.text(repr(shown) if printer.indentation else text(shown))


# What each type says: (title, facts, rows).


@singledispatch
def _parts(shown: Any) -> tuple[str, Mapping[str, Any], Rows]:
    return shown.title, shown.facts(), shown.table()


@_parts.register
def _(tensor: QTensor) -> tuple[str, Mapping[str, Any], Rows]:
    facts = {"bits_per_weight": tensor.bits_per_weight, "size_bytes": tensor.nbytes}
    return f"QTensor {tensor.spec}, {' × '.join(map(str, tensor.shape))}", facts, []


@_parts.register
def _(error: QuantError) -> tuple[str, Mapping[str, Any], Rows]:
    names = ("mse", "rel_mse", "max_abs", "snr_db")
    return "", {name: getattr(error, name) for name in names}, []


@_parts.register
def _(grid: Grid) -> tuple[str, Mapping[str, Any], Rows]:
    distinct = len(set(_finite(grid.levels)))
    return f"Grid {grid.name}", {"bits": grid.bits, "levels": distinct, "largest": grid.absmax}, []


@_parts.register
def _(spec: QuantSpec) -> tuple[str, Mapping[str, Any], Rows]:
    # what follows the colon in a rule's text is about integers
    rule = RULES[spec.rule] if spec.grid.is_integer else RULES[spec.rule].partition(":")[0]
    facts = {"bits_per_weight": spec.bits_per_weight(REFERENCE_SHAPE), "rule": rule}
    return f"QuantSpec {spec}", facts, _stored(spec)


def _stored(spec: QuantSpec) -> Rows:
    """What one group keeps, part by part."""
    where = {"row": "of a row", "flat": "in storage order", "tensor": "of the whole tensor"}[spec.blocking]
    many = f"{spec.group_size or 'all'} weights {where}"
    rows = [{"stored": "codes", "how many": many, "as": f"{spec.grid.name}, {spec.bits} bits"}]
    if spec.rule != "none":
        rows.append({"stored": "scale", "how many": "one per group", "as": str(spec.scale or spec.dtype)})
    if spec.has_zero:
        rows.append({"stored": "zero", "how many": "one per group", "as": f"integer, {spec.bits} bits"})
    if spec.rule == "offset":
        rows.append({"stored": "offset", "how many": "one per group", "as": str(spec.offset or spec.dtype)})
    return rows


# Pictures in the page's own text colour. Labels stand outside the SVG: an untrusted notebook drops the
# drawing and keeps its words.


@singledispatch
def picture(shown: Any) -> str:
    """A small inline drawing of an object, empty for types that have none."""
    return ""


@picture.register
def _(tensor: QTensor) -> str:
    counts = torch.bincount(tensor.codes.reshape(-1).long(), minlength=2**tensor.spec.bits).tolist()
    step = PICTURE[0] / len(counts)
    bars = [(i * step, step * 0.85, n / max(counts)) for i, n in enumerate(counts) if n]
    return _bars(bars, f"how often each code is used, 0 … {len(counts) - 1}")


@picture.register
def _(grid: Grid) -> str:
    levels = sorted(set(_finite(grid.levels)))
    span = levels[-1] - levels[0]
    ticks = [((PICTURE[0] - 1) * (level - levels[0]) / span, 1.0, 1.0) for level in levels]
    return _bars(ticks, f"levels from {number(levels[0])} to {number(levels[-1])}")


@picture.register
def _(spec: QuantSpec) -> str:
    """One group as boxes, codes wide and metadata narrow: to scale, 16 bits beside 512 would vanish."""
    style = "display:inline-block;text-align:center;border:1px solid rgba(128,128,128,.6);margin-right:2px"
    parts = [row["stored"] for row in _stored(spec)]
    boxes = (f'<span style="{style};width:{5 if i else 16}em">{part}</span>' for i, part in enumerate(parts))
    return f'<div style="margin:.4em 0">{"".join(boxes)}</div>'


def _bars(bars: Iterable[tuple[float, float, float]], caption: str) -> str:
    """Bars (left, width, height 0…1) over a base line, with a caption."""
    width, high = PICTURE
    rects = "".join(
        f'<rect x="{x:.4g}" y="{high * (1 - h):.4g}" width="{w:.4g}" height="{high * h:.4g}"/>' for x, w, h in bars
    )
    base = f'<rect y="{high}" width="{width}" height="1" fill-opacity=".5"/>'
    style = 'style="display:block;margin-top:.4em" fill="currentColor"'
    svg = f'<svg width="{width}" height="{high + 1}" {style} role="img">{rects}{base}</svg>'
    return f'{svg}<div style="font-size:.85em">{caption}</div>'


# Numbers and cells.


def number(value: float) -> str:
    """A number for reading: 4 significant digits, thousands separated, an exponent where it is shorter."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if 1e4 <= abs(value) < 1e7:
        return f"{float(f'{value:.4g}'):,.0f}"
    return f"{value + 0.0:.4g}"


def size(count: float) -> str:
    """Bytes in decimal units: 3895000000 is 3.895 GB."""
    count = float(f"{count:.4g}")  # rounded first: 999,999 bytes are 1 MB, not 1000 kB
    power = min(int(math.log10(abs(count)) // 3), 4) if abs(count) >= 1 else 0
    return f"{number(count / 1000**power)} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and key.endswith("_bytes"):
        return size(value)
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def _fact(name: str, value: Any) -> str:
    """Numbers stand out in a line of facts, sentences do not."""
    shown = escape(_cell(name, value))
    return f"{escape(_header(name))} " + (shown if isinstance(value, str) else f"<b>{shown}</b>")


def _header(key: str) -> str:
    return " ".join(ACRONYMS.get(word, word) for word in key.removesuffix("_bytes").split("_"))


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _align(rows: Rows, key: str) -> Any:
    """Numbers to the right, words to the left."""
    return "left" if any(isinstance(row.get(key), str) and row[key] for row in rows) else "right"


def _shortened(rows: Rows) -> Rows:
    """At most MAX_ROWS rows: the first ones, a row that counts what is left out, and the last ones."""
    if len(rows) <= MAX_ROWS:
        return rows
    tail = MAX_ROWS // 3
    hidden = {_columns(rows)[0]: f"… {len(rows) - MAX_ROWS + 1} more"} | dict.fromkeys(_columns(rows)[1:], "")
    return [*rows[: MAX_ROWS - tail - 1], hidden, *rows[-tail:]]


def _finite(levels: Iterable[float]) -> list[float]:
    return [level + 0.0 for level in levels if math.isfinite(level)]
