"""Open JupyterLab on lesson 00: on localhost, behind a fresh token, asking no server for news or updates."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = Path(__file__).resolve().parent / "lab_settings"


def first_lesson() -> Path:
    """The notebook to open, relative to the repository."""
    lessons = sorted((ROOT / "notebooks").glob("00_*.ipynb"))
    if not lessons:
        raise SystemExit("lab: notebooks/00_*.ipynb is missing; run `git checkout notebooks` and try again")
    return lessons[0].relative_to(ROOT)


def has_display(env: Mapping[str, str], platform: str) -> bool:
    """Whether a browser can show itself here; where it cannot, JupyterLab prints the address instead."""
    return platform in ("darwin", "win32") or bool(env.get("DISPLAY") or env.get("WAYLAND_DISPLAY"))


def command(lesson: Path, *, display: bool, root: bool) -> list[str]:
    """JupyterLab's command line."""
    return [
        *(sys.executable, "-m", "jupyterlab"),
        f"--LabApp.default_url=/lab/tree/{lesson.as_posix()}",  # a file argument would not show in the printed address
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={ROOT}",
        f"--LabApp.app_settings_dir={SETTINGS}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        *(() if display else ("--no-browser",)),
        # A container has no other user than root, and JupyterLab refuses root unless told.
        *(("--allow-root",) if root else ()),
    ]


def main(extra: list[str]) -> None:
    """Become JupyterLab; `extra` goes to it unchanged."""
    os.chdir(ROOT)
    display = has_display(os.environ, sys.platform)
    line = command(first_lesson(), display=display, root=hasattr(os, "getuid") and os.getuid() == 0)
    os.execv(sys.executable, [*line, *extra])


if __name__ == "__main__":
    main(sys.argv[1:])
