"""The built book, read in Chromium with the network blocked."""

from urllib.parse import urljoin, urlsplit

import pytest
from browser import unmoved_sliders
from shots import HTML

pytestmark = pytest.mark.browser


def test_nothing_is_asked_of_the_network(opened):
    assert opened.outside == []


def test_no_request_fails(opened):
    assert opened.failed == []


def test_no_script_complains(opened):
    assert opened.errors == []


def test_formulas_are_rendered(opened):
    formulas = opened.page.locator(".bd-article .math:not(mjx-container *)")
    bare = [each.inner_text() for each in formulas.all() if not each.locator("mjx-container").count()]
    assert bare == []
    assert formulas.count() > 0 or not opened.is_lesson


def test_figures_are_drawn(opened):
    figures = opened.page.locator(".qlab-plotly")
    assert opened.page.locator(".qlab-plotly[data-drawn]").count() == figures.count()
    assert figures.count() > 0 or not opened.is_lesson


def test_figures_follow_the_theme(opened):
    ticks = opened.page.locator(".qlab-plotly .xtick text")
    assert ticks.count() > 0 or not opened.is_lesson
    if ticks.count():
        assert tick_colour(opened.page, ticks.first, "light") != tick_colour(opened.page, ticks.first, "dark")


def tick_colour(page, tick, theme: str) -> str:
    """The colour of an axis label under a theme, as painted."""
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    page.wait_for_timeout(300)  # plotly repaints in a later task and says so nowhere
    return tick.evaluate("tick => getComputedStyle(tick).fill")


def test_widgets_are_drawn(opened):
    views = opened.page.locator("script[type='application/vnd.jupyter.widget-view+json']")
    assert opened.page.locator(".widget-subarea > *").count() == views.count()
    assert views.count() > 0 or not opened.is_lesson


def test_widgets_move(opened):
    widgets = opened.page.locator(".qlab-widget")
    assert widgets.locator("input[type=range]").count() > 0 or not opened.is_lesson
    assert unmoved_sliders(opened.page, widgets) == []


def test_links_lead_somewhere(opened):
    links = opened.page.locator("a[href]").evaluate_all("all => all.map(link => link.getAttribute('href'))")
    paths = {urlsplit(urljoin(opened.path, link)).path for link in links if not urlsplit(link).scheme}
    assert sorted(path for path in paths if path and not (HTML / path).exists()) == []


def test_lessons_can_be_downloaded(opened):
    notebooks = opened.page.locator("a[href$='.ipynb'][href*='_sources']")
    assert notebooks.count() == int(opened.is_lesson)


CROWDED = """() => [...document.querySelectorAll(".qlab-plotly")].flatMap((holder) => {
    const box = (of) => holder.querySelector(of)?.getBoundingClientRect() ?? new DOMRect();
    const texts = [box(".gtitle"), box(".gtitle-subtitle")], bottom = Math.max(...texts.map((text) => text.bottom));
    const wide = texts.some((text) => text.right > holder.getBoundingClientRect().right);
    const under = [".legend", ".bglayer"].some((part) => box(part).width && box(part).top < bottom);
    return wide || under ? [holder.querySelector(".gtitle").textContent] : [];
})"""


def test_titles_and_captions_have_room_on_a_phone(opened):
    wide = opened.page.viewport_size
    opened.page.set_viewport_size({"width": 390, "height": 900})
    opened.page.wait_for_timeout(500)  # plotly lays out anew in a later task and says so nowhere
    crowded = opened.page.evaluate(CROWDED)
    opened.page.set_viewport_size(wide)
    assert crowded == []
