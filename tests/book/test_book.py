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


# Titles and captions over what stands below them, and texts of any kind that leave their figure, or the part of it to
# which plotly clips them. A pixel of grace: Chromium rounds the box of a text out to whole ones.
CROWDED = """() => [...document.querySelectorAll(".qlab-plotly")].flatMap((holder) => {
    const box = (of) => holder.querySelector(of)?.getBoundingClientRect() ?? new DOMRect();
    const bottom = Math.max(box(".gtitle").bottom, box(".gtitle-subtitle").bottom);
    const under = [".legend", ".bglayer"].some((part) => box(part).width && box(part).top < bottom);
    const leaves = (inner, { left, top, right, bottom }) =>
        Math.max(left - inner.left, top - inner.top, inner.right - right, inner.bottom - bottom) > 1;
    const clip = (part) => {
        const [id] = part.getAttribute("clip-path").match(/#\\w+/), { a, d, e, f } = part.getScreenCTM();
        const { x, y, width, height } = document.querySelector(`${id} rect`);
        const [left, top, wide, high] = [x, y, width, height].map((length) => length.baseVal.value);
        return new DOMRect(a * left + e, d * top + f, a * wide, d * high);
    };
    const cut = [...holder.querySelectorAll(".main-svg text")].filter((text) => {
        const inner = text.getBoundingClientRect(), clipped = text.closest("[clip-path*='#']");
        const rooms = [holder.getBoundingClientRect(), ...(clipped ? [clip(clipped)] : [])];
        return inner.width && rooms.some((room) => leaves(inner, room));
    });
    return [...(under ? [holder.querySelector(".gtitle")] : []), ...cut].map((text) => text.textContent);
})"""


@pytest.mark.parametrize("width", [390, 1280])
def test_the_texts_of_figures_have_room(opened, width):
    wide = opened.page.viewport_size
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.page.wait_for_timeout(500)  # plotly lays out anew in a later task and says so nowhere
    crowded = opened.page.evaluate(CROWDED)
    opened.page.set_viewport_size(wide)
    assert crowded == []
