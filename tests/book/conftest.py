"""The book, built once for a session, and each of its pages opened with the network blocked."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from browser import chromium, stay_inside
from filelock import FileLock
from playwright.sync_api import Browser, Page
from shots import HTML, draw_everything, served

BOOK = HTML.parents[1]


def page_paths() -> list[str]:
    """Every page that the table of contents names, as it is served."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    chapters = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    return [f"{name}.html" for name in [toc["root"], *chapters]]


@dataclass
class Opened:
    """One page after a reader has scrolled through it, and what went wrong on the way."""

    path: str
    page: Page
    outside: list[str]
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def is_lesson(self) -> bool:
        """Whether the page is a notebook."""
        return self.path.startswith("notebooks/")


@pytest.fixture(scope="session")
def book() -> Iterator[str]:
    """The address of the book, built by the reader's own command (seconds when nothing changed)."""
    HTML.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(HTML.parent / ".lock"):  # workers side by side would write the same files
        result = subprocess.run([sys.executable, BOOK / "build.py"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    with served(HTML) as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium_path: str | Path) -> Iterator[Browser]:
    """One Chromium for all pages; closed with the module, since two Playwrights cannot run at once."""
    with chromium(str(chromium_path)) as running:
        yield running


@pytest.fixture(scope="module", params=page_paths())
def opened(request: pytest.FixtureRequest, book: str, browser: Browser) -> Iterator[Opened]:
    """A page in the light theme, scrolled through once."""
    page = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme="light")
    result = Opened(request.param, page, stay_inside(page, book))
    page.on("pageerror", lambda error: result.errors.append(str(error)))
    page.on("console", lambda line: result.errors.append(line.text) if line.type == "error" else None)
    page.on("requestfailed", lambda asked: result.failed.append(f"{asked.url}: {asked.failure}"))
    page.on("response", lambda got: got.status < 400 or result.failed.append(f"{got.url}: {got.status}"))
    page.goto(f"{book}/{request.param}", wait_until="networkidle")
    draw_everything(page)
    yield result
    page.close()
