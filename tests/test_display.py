"""Cards and tables: what they say, that they repeat, and that they survive a page's colours."""

import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from transformers import LlamaConfig

from qlab import display
from qlab.grid import get_grid
from qlab.memory import estimate
from qlab.methods import quantize
from qlab.spec import QuantSpec

TINY = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)


@dataclass(frozen=True)
class Report:
    """Stands for a type of a higher floor: it has the three members and knows nothing of display."""

    rows: int = 2
    title: str = "Run <1>"

    def facts(self):
        return {"size_bytes": 3_895_000_000, "kl_mean": 0.0123456}

    def table(self):
        return [{"layer": f"layers.{i}", "bits_per_weight": 4.15625, "rel_mse": None} for i in range(self.rows)]


def tensor(spec="int4-g32-asym"):
    return quantize(torch.linspace(-1, 1, 8 * 64).reshape(8, 64), spec)


CORE = [
    tensor(),
    tensor("nf4-g64"),
    tensor().error(torch.zeros(8, 64)),
    QuantSpec.parse("int4-g128-asym"),
    QuantSpec.parse("nf4-g64-dq"),
    QuantSpec.parse("int8-row-sym"),
    QuantSpec.parse("int4-g32-offset"),
    get_grid("nf4"),
    get_grid("e8m0"),
    estimate(TINY, "int4-g32-asym"),
    Report(),
]


class Balance(HTMLParser):
    """Fails on a tag that is closed out of order, and collects the words."""

    def __init__(self, page):
        super().__init__()
        self.open, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("shown", CORE, ids=lambda shown: type(shown).__name__)
def test_card_is_balanced_repeatable_and_takes_the_pages_colours(shown):
    card = display.html(shown)
    assert Balance(card).open == []
    assert card == display.html(shown)
    assert set(re.findall(r"(?:color|fill)[:=]\"?([^;\"]+)", card)) <= {"inherit", "transparent", "currentColor"}


@pytest.mark.parametrize("shown", CORE, ids=lambda shown: type(shown).__name__)
def test_terminal_and_notebook_say_the_same(shown):
    """All words of the text stand in the card; the card has only its drawing's caption on top."""
    words = set(" ".join(Balance(display.html(shown)).words).split())
    said = {word for word in display.text(shown).split() if not set(word) <= {"─"}}
    assert said <= words


def test_any_type_with_title_facts_and_table_is_shown():
    assert display.text(Report()).splitlines() == [
        "Run <1>",
        "size 3.895 GB · KL mean 0.01235",
        " layer      bits per weight   rel MSE",
        " ────────────────────────────────────",
        " layers.0             4.156         –",
        " layers.1             4.156         –",
    ]
    assert "Run &lt;1&gt;" in display.html(Report())


def test_a_long_table_shows_both_ends_and_counts_the_rest():
    shown = display.text(Report(rows=100))
    assert "layers.0 " in shown
    assert "layers.99 " in shown
    assert "… 89 more" in shown
    assert shown.count("layers.") == display.MAX_ROWS - 1
    assert display.table_text(Report(rows=100).table()).count("layers.") == 100


def test_tensor_card_draws_one_bar_per_code_in_use():
    used = quantize(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), "int2-row-asym")
    assert used.codes.tolist() == [[0, 1, 2, 3]]
    assert display.picture(used).count("<rect") == 4 + 1  # and the base line
    assert "bits per weight" in display.html(used)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("int4-g128-asym", ["codes", "scale", "zero"]),
        ("int4-g128-sym", ["codes", "scale"]),
        ("int4-g32-offset", ["codes", "scale", "offset"]),
        ("e8m0-row-none", ["codes"]),
    ],
)
def test_spec_card_lists_what_a_group_stores(name, parts):
    spec = QuantSpec.parse(name)
    assert Balance(display.picture(spec)).words == parts


def test_spec_card_counts_metadata():
    assert "bits per weight 4.156" in display.text(QuantSpec.parse("int4-g128-asym"))  # 4 + 20/128


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (4.15625, "4.156"),
        (12345.6, "12,350"),
        (0.000012345, "1.234e-05"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers(value, written):
    assert display.number(value) == written


@pytest.mark.parametrize(
    ("count", "written"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_999, "1 MB"), (3_895_000_000, "3.895 GB"), (7e16, "70,000 TB")],
)
def test_sizes_are_decimal(count, written):
    assert display.size(count) == written


def test_table_keeps_chosen_columns_and_markup_as_it_is():
    rows = [{"a": "[bold]x[/bold]", "b": True, "c": 1234567}]
    assert display.table_text(rows, ["a", "c"]).splitlines()[-1] == " [bold]x[/bold]   1,234,567"
    assert "yes" in display.table_html(rows)


def test_ipython_shows_cards_and_short_reprs_inside_containers():
    shell = InteractiveShell.instance()
    try:
        display.register()
        spec = QuantSpec.parse("int4-g128-asym")
        data, _ = shell.display_formatter.format(spec)
        assert data["text/html"] == display.html(spec)
        assert data["text/plain"] == display.text(spec)
        inside, _ = shell.display_formatter.format([tensor()])
        assert inside["text/plain"] == f"[{tensor()!r}]"
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.parametrize(("module", "names"), display.HIGHER.items())
def test_types_of_higher_floors_are_where_ipython_will_look(module, names):
    for name in names:
        kind = getattr(importlib.import_module(module), name)
        assert kind.__module__ == module
        assert all(hasattr(kind, member) for member in ("title", "facts", "table"))


def test_registering_outside_ipython_does_nothing_and_imports_nothing():
    code = "import sys; from qlab import display; display.register(); assert 'IPython' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
