"""Plotly figures in the book: the renderer that myst-nb finds by its `myst_nb.mime_renderers` entry point."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes

if TYPE_CHECKING:  # myst-nb is in the book extra only
    from myst_nb.core.render import MimeData

MIME = "application/vnd.plotly.v1+json"
DEFAULT_HEIGHT = 450  # plotly's own default, px


def figure_html(figure: dict[str, Any]) -> str:
    """The holder that book/_static/qlab-book.js draws into, at full height, so that nothing jumps later."""
    height = figure.get("layout", {}).get("height", DEFAULT_HEIGHT)
    # A figure's text may contain "</script>", which would end the tag that carries it.
    body = json.dumps(figure, separators=(",", ":")).replace("</", "<\\/")
    script = f'<script type="{MIME}">{body}</script>'
    return f'<div class="qlab-plotly" style="min-height:{height}px">{script}</div>'


class PlotlyMime:
    """Turns a committed plotly output into HTML; leaves every other output to myst-nb."""

    mime_priority_overrides: ClassVar = [("html", MIME, 1)]

    @staticmethod
    def handle_mime(renderer: object, data: MimeData, inline: bool) -> list[nodes.Element] | None:
        """Docutils nodes for a plotly output, None for another mime type (myst-nb's plug-in protocol)."""
        if inline or data.mime_type != MIME:
            return None
        figure = data.content if isinstance(data.content, dict) else json.loads(data.content)
        return [nodes.raw("", figure_html(figure), format="html")]
