"""Every widget is one self-contained ES module in one look, light and dark."""

import re

import pytest

from qlab.widgets.base import JS, Widget, module, style
from tests.widgets.node import parse

PARTS = ("quant.js", "draw.js", "blocks.js", "vector.js", "words.js", "halves.js")  # modules that widgets import
WIDGETS = sorted(p.name for p in JS.glob("*.js") if p.name not in PARTS)


@pytest.mark.parametrize("name", WIDGETS)
def test_a_module_needs_nothing_but_itself(name: str) -> None:
    text = module(name)
    assert not re.search(r"^import ", text, re.M)
    assert len(re.findall(r"^export default", text, re.M)) == 1
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


@pytest.mark.parametrize("name", WIDGETS)
def test_a_module_and_the_parts_in_front_of_it_parse_as_one(name: str) -> None:
    parse(module(name))


def test_the_style_uses_variables_in_light_and_dark() -> None:
    text = style()
    assert text in Widget._css
    blocks = re.findall(r"--ink: (#\w+)", text)
    assert len(set(blocks)) == 2
