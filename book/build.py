"""Build the book: `python book/build.py` writes book/_build/html, strictly, to be read without a network."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import plotly

BOOK = Path(__file__).resolve().parent
HTML = BOOK / "_build" / "html"
DOCTREES = BOOK / "_build" / "doctrees"
VENDOR = BOOK / "_static" / "vendor"
NPM = BOOK / "node_modules"

MATHJAX = "mathjax"
NEWCM = "@mathjax/mathjax-newcm-font"
WIDGETS = "@jupyter-widgets/html-manager/dist"

# vendor path -> (folder to take from, patterns): all that a page would otherwise ask a CDN for.
NPM_FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "": ("requirejs", ("require.js",)),
    f"widgets/{WIDGETS}": (WIDGETS, ("embed-amd.js", "*.woff2", "*.woff", "*.ttf")),
    "mathjax": (MATHJAX, ("tex-mml-chtml.js", "input/**/*.js", "ui/**/*.js", "a11y/**/*.js", "sre/*.js")),
    # The other spoken languages are 4 MB; base, en and nemeth are what an English page loads.
    "mathjax/sre/mathmaps": (f"{MATHJAX}/sre/mathmaps", ("base.json", "en.json", "nemeth.json")),
    "mathjax-newcm-font": (NEWCM, ("chtml.js", "chtml/**/*")),
}


def python_files() -> dict[str, Path]:
    """Vendor path -> the browser file that an installed Python package carries."""
    return {
        "plotly.min.js": Path(plotly.__file__).parent / "package_data" / "plotly.min.js",
        "widgets/anywidget.js": Path(sys.prefix) / "share/jupyter/nbextensions/anywidget/index.js",
    }


def stamp() -> str:
    """Digest of everything that decides the vendored files: the lock, this file, the two packages."""
    parts = [(BOOK / "package-lock.json").read_bytes(), Path(__file__).read_bytes()]
    parts += [version(name).encode() for name in ("plotly", "anywidget")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def npm_install() -> None:
    """Install exactly what package-lock.json pins into book/node_modules; no package's scripts run."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise SystemExit("book: node and npm were not found on PATH; install Node 18 or newer")
    result = subprocess.run([npm, "ci", "--ignore-scripts"], cwd=BOOK, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"book: npm ci failed in {BOOK}; npm said:\n{result.stderr.strip()}")


def copy_tree(source: Path, patterns: tuple[str, ...], target: Path) -> None:
    """Copy the files under source that match any pattern, keeping their relative paths."""
    for pattern in patterns:
        matches = [path for path in source.glob(pattern) if path.is_file()]
        if not matches:
            raise SystemExit(f"book: nothing matches {pattern} in {source}; run npm ci in {BOOK}")
        for path in matches:
            copy(path, target / path.relative_to(source))


def copy(source: Path, target: Path) -> None:
    """Copy one file, making its folder."""
    if not source.is_file():
        raise SystemExit(f"book: {source} is missing; reinstall the package it belongs to")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def vendor() -> None:
    """Fill _static/vendor, aside and by one rename; nothing to do when its stamp still holds."""
    mark = VENDOR / "stamp"
    if mark.is_file() and mark.read_text() == stamp():
        return
    npm_install()
    fresh = VENDOR.with_name("vendor.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    for target, (source, patterns) in NPM_FILES.items():
        copy_tree(NPM / source, patterns, fresh / target)
    for target, path in python_files().items():
        copy(path, fresh / target)
    (fresh / "stamp").write_text(stamp())
    shutil.rmtree(VENDOR, ignore_errors=True)
    fresh.rename(VENDOR)


def sphinx() -> None:
    """Render book/_build/html; any warning fails, and a failed build is forgotten whole."""
    command = [sys.executable, "-m", "sphinx", "-nW", "--keep-going", "-q"]
    result = subprocess.run([*command, "-d", str(DOCTREES), str(BOOK), str(HTML)], check=False)
    if result.returncode:
        # Sphinx repeats a warning only for pages it reads again: a kept cache would pass next time.
        shutil.rmtree(DOCTREES, ignore_errors=True)
        raise SystemExit("book: Sphinx reported the warnings above; each names its page")


if __name__ == "__main__":
    vendor()
    sphinx()
    print(HTML / "index.html")
