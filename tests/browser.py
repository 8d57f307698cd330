"""What the tests of the book and of JupyterLab share: a browser, and how a widget is driven by keyboard."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Locator, Page, sync_playwright

QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A headless Chromium, closed at the end of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


def stay_inside(page: Page, host: str) -> list[str]:
    """Abort every request of `page` that leaves `host`; the list returned names them as they are tried."""
    outside: list[str] = []

    def leaves(url: str) -> bool:
        return not url.startswith((host, host.replace("http", "ws", 1), "data:", "blob:"))

    page.route(leaves, lambda route: (outside.append(route.request.url), route.abort()))
    return outside


def unmoved_sliders(page: Page, widgets: Locator) -> list[str]:
    """Names of the sliders that change no readout of their widget between Home and End."""
    return [
        f"widget {number}, slider {index}: {describe(slider)}"
        for number, widget in enumerate(widgets.all())
        for index, slider in enumerate(widget.locator("input[type=range]:enabled").all())
        if slider.is_visible() and not moves(page, widget, slider)
    ]


def moves(page: Page, widget: Locator, slider: Locator) -> bool:
    """Whether the keyboard takes the slider from end to end and back a step, and a readout follows."""
    slider.scroll_into_view_if_needed()
    readouts, values = zip(*(after(page, widget, slider, key) for key in ("Home", "End", "ArrowLeft")), strict=True)
    return readouts[0] != readouts[1] and values[1] != values[2]


def after(page: Page, widget: Locator, slider: Locator, key: str) -> tuple[list[str], str]:
    """The widget's readouts and the slider's value after a key press on the slider."""
    slider.focus()
    page.keyboard.press(key)
    settle(page)
    return widget.locator("[data-qlab-readout]").all_inner_texts(), slider.input_value()


def settle(page: Page) -> None:
    """Let the page paint twice: the input event has been handled and what it changed is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def describe(slider: Locator) -> str:
    """The slider's accessible name, or its markup when it has none."""
    return slider.get_attribute("aria-label") or str(slider.evaluate("slider => slider.outerHTML"))
