"""Run a command, unless it has passed before on exactly these files: `once.py NAME COMMAND…` (see `make test`).

What counts is the content of every file git knows or would add, the environment's stamp, and the command. The digest
of a pass is kept in .venv, so a fresh clone runs everything; AGAIN=1 in the environment runs it in any case.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / ".venv"
ENVIRONMENT = STAMPS / "qlab-setup"  # written by setup.py: decides which packages are there


def files() -> list[Path]:
    """Every file that a commit of this tree would hold; none where git cannot say."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(listing, cwd=ROOT, capture_output=True, check=False)
    return [ROOT / name for name in sorted(set(os.fsdecode(result.stdout).split("\0"))) if name]


def digest(command: list[str]) -> str | None:
    """Digest of all that the command may read, or None where that cannot be known."""
    tree = files()
    if not tree or not ENVIRONMENT.is_file():
        return None
    # without a browser its tests are skipped, except under CI, where they fail: that decides what a pass means
    browser = os.environ.get("QLAB_CHROMIUM") or shutil.which("chromium") or f"none, CI={os.environ.get('CI')}"
    parts = hashlib.sha256("\0".join([*command, browser]).encode())
    for path in (ENVIRONMENT, *tree):
        content = path.read_bytes() if path.is_file() else b""  # a deleted file, or a link to a folder
        parts.update(f"\0{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    return parts.hexdigest()


def main(name: str, *command: str) -> int:
    """Run `command` and remember that it passed; give back its exit code."""
    stamp = STAMPS / f"qlab-passed-{name}"
    before = digest(list(command))
    if before and not os.environ.get("AGAIN") and stamp.is_file() and stamp.read_text() == before:
        print(f"   {name}: passed before on exactly these files (make test AGAIN=1 runs it again)", flush=True)
        return 0
    stamp.unlink(missing_ok=True)
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code == 0 and before and digest(list(command)) == before:  # nobody edited while it ran
        stamp.write_text(before)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
