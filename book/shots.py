"""Pictures of the built book: `python book/shots.py FOLDER` writes each page, light and dark, as a PNG."""

from __future__ import annotations

import argparse
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HTML = Path(__file__).resolve().parent / "_build" / "html"
WIDTH, HEIGHT = 1400, 900  # a laptop's window
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and keeps the log to itself."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which `folder` is served, on this machine only, for the length of the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def page_names(html: Path) -> list[str]:
    """Every page of the book but the search form and the index, as paths relative to `html`."""
    pages = {path.relative_to(html) for path in html.rglob("*.html") if "_static" not in path.parts}
    return sorted(path.as_posix() for path in pages - {Path("search.html"), Path("genindex.html")})


def draw_everything(page: Page) -> None:
    """Scroll through the page, so that figures drawn when seen are drawn, then return to the top."""
    for figure in page.locator(".qlab-plotly").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
    page.evaluate("window.MathJax?.startup?.promise")
    page.evaluate("scrollTo(0, 0)")


def shoot(html: Path, folder: Path, chromium: str) -> None:
    """Write FOLDER/<page>.<light|dark>.png for every page."""
    with served(html) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)
            for name in page_names(html):
                page.goto(f"{address}/{name}")
                draw_everything(page)
                target = folder / f"{name.removesuffix('.html').replace('/', '-')}.{theme}.png"
                page.screenshot(path=target, full_page=True)
                print(target)
        browser.close()


def main() -> None:
    """Parse the command line and shoot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go; made if missing")
    parser.add_argument("--html", type=Path, default=HTML, help="the built book (default: %(default)s)")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="default: the one on PATH")
    options = parser.parse_args()
    if options.chromium is None:
        raise SystemExit("shots: no chromium on PATH; install it, or name it with --chromium")
    if not options.html.is_dir():
        raise SystemExit(f"shots: {options.html} is missing; build the book first: python book/build.py")
    options.folder.mkdir(parents=True, exist_ok=True)
    shoot(options.html, options.folder, options.chromium)


if __name__ == "__main__":
    main()
