"""A committed plotly output becomes HTML that the book's script can read back."""

import json
import re
from types import SimpleNamespace

import plotly.graph_objects as go

from qlab.plots.mime import DEFAULT_HEIGHT, MIME, PlotlyMime, figure_html


def carried(html: str) -> dict:
    """The figure inside the holder, read as a browser reads it: the script ends at the first closing tag."""
    return json.loads(re.search(rf'<script type="{re.escape(MIME)}">(.*?)</script>', html, re.DOTALL)[1])


def test_the_figure_survives():
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3.5, 4.0]), layout={"height": 300}).to_plotly_json()
    figure = json.loads(json.dumps(figure, default=list))
    assert carried(figure_html(figure)) == figure


def test_text_cannot_end_the_script():
    figure = {"data": [], "layout": {"title": {"text": "</script><b>"}}}
    assert carried(figure_html(figure)) == figure


def test_room_is_kept_before_drawing():
    assert "min-height:300px" in figure_html({"data": [], "layout": {"height": 300}})
    assert f"min-height:{DEFAULT_HEIGHT}px" in figure_html({"data": []})


def test_other_outputs_are_left_alone():
    table = SimpleNamespace(mime_type="text/html", content="<table></table>")
    assert PlotlyMime.handle_mime(None, table, inline=False) is None


def test_an_output_becomes_one_raw_node():
    figure = {"data": [], "layout": {}}
    for content in (figure, json.dumps(figure)):
        nodes = PlotlyMime.handle_mime(None, SimpleNamespace(mime_type=MIME, content=content), inline=False)
        assert [node.astext() for node in nodes] == [figure_html(figure)]


def test_myst_nb_finds_the_renderer():
    from myst_nb.core.render import load_mime_renders

    assert PlotlyMime in load_mime_renders()
